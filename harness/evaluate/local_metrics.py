"""Metrics of generated text as modules of `evaluate`, computed by installed libraries. Nothing is downloaded.

Each metric gives one number per item. BLEU and chrF are defined on the whole set and give one number for it.
"""

from __future__ import annotations

import re
import string
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

Scores = dict[str, list[float]]


class _Local(evaluate.Metric):  # type: ignore[misc]
    """Base of metrics that compare texts with reference texts, in memory."""

    citation = ""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True, experiment_id=uuid.uuid4().hex)

    def _info(self) -> Any:
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(
            description=str(self.__doc__), citation=self.citation, inputs_description="texts", features=features
        )


class Rouge(_Local):
    """ROUGE-1, ROUGE-2 and ROUGE-L F-measures with Porter stemming, 0 to 1, by rouge_score."""

    citation = "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries"

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> Scores:
        from rouge_score.rouge_scorer import RougeScorer

        names = ("rouge1", "rouge2", "rougeL")
        scorer = RougeScorer(names, use_stemmer=True)
        found = [scorer.score(target=r, prediction=p) for p, r in zip(predictions, references, strict=True)]
        return {name: [float(one[name].fmeasure) for one in found] for name in names}


class Sacre(_Local):
    """chrF per item, and BLEU and chrF of the whole set, 0 to 100, by sacrebleu."""

    citation = "Post 2018 (arXiv 1804.08771); Popovic 2015 (chrF); Papineni et al. 2002 (BLEU)"

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> Scores:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        chrf, answers, targets = CHRF(), list(predictions), list(references)
        return {
            "sentence_chrf": [chrf.sentence_score(p, [r]).score for p, r in zip(answers, targets, strict=True)],
            "chrf": [chrf.corpus_score(answers, [targets]).score],
            "bleu": [BLEU().corpus_score(answers, [targets]).score],
        }


class Overlap(_Local):
    """Exact match and token F1 of normalized answers, 0 or 1 and 0 to 1."""

    citation = "Rajpurkar et al. 2016 (arXiv 1606.05250), whose normalization it uses"

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> Scores:
        pairs = [(normalized(p), normalized(r)) for p, r in zip(predictions, references, strict=True)]
        return {"exact_match": [float(p == r) for p, r in pairs], "token_f1": [token_f1(p, r) for p, r in pairs]}


def normalized(text: str) -> str:
    """Return the text in lower case, without punctuation and articles, with single spaces."""
    plain = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def token_f1(prediction: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over words; 1 if both texts are empty."""
    answer, target = prediction.split(), reference.split()
    if not answer or not target:
        return float(answer == target)
    common = (Counter(answer) & Counter(target)).total()
    return 2 * common / (len(answer) + len(target))


def compute(predictions: Sequence[str], references: Sequence[str]) -> Scores:
    """Return every metric of every module by its name: one number per item, or one for the whole set."""
    found: Scores = {}
    for module in (Rouge(), Sacre(), Overlap()):
        found.update(module.compute(predictions=list(predictions), references=list(references)))
    return found
