"""Backends of lm-eval tasks: its own Hugging Face model, or the same one with our likelihoods."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from harness.data.chat_template import template_text
from harness.evaluate import likelihood
from harness.evaluate.batching import Request
from harness.records.evaluation import Evaluation

Progress = Callable[[int, int], None]


def of(model: Any, tokenizer: Any, evaluation: Evaluation, progress: Progress) -> Any:
    """Return the backend that an evaluation names, around a loaded model."""
    if evaluation.backend == "hf":
        return Apart(pretrained=model, tokenizer=tokenizer, **_options(evaluation, tokenizer))
    return SharedPrefix(model, tokenizer, evaluation, progress)


def facts(backend: Any) -> dict[str, Any]:
    """Return the facts that a backend recorded about its own work; {} if it records none."""
    work = getattr(backend, "work", None)
    return {} if work is None else dataclasses.asdict(work)


def _options(evaluation: Evaluation, tokenizer: Any) -> dict[str, Any]:
    template = template_text(None, tokenizer) if evaluation.chat_template else None
    return {
        "chat_template_args": {} if template is None else {"chat_template": template},
        "batch_size": evaluation.batch_size,
        "softmax_dtype": "float32",
        "mixed_precision_dtype": "bfloat16" if evaluation.precision == "bf16" else None,
    }


def _refuse_empty(requests: list[Any]) -> None:
    """Refuse continuations without a token of their own, which have no likelihood.

    Raises:
        ValueError: names one, and the end of what stands before it.
    """
    for texts, _, continuation in requests:
        if not continuation:
            before, answer = texts or ("", "")
            raise ValueError(
                f"eval.tasks: the answer {answer!r} behind {before[-40:]!r} has no token of its own: it is empty, or "
                "the tokenizer merges it into the text before it. Leave the task out, or change its target_delimiter"
            )


class Apart(HFLM):  # type: ignore[misc]
    """Hugging Face model of lm-eval that also generates correctly behind virtual tokens.

    PEFT's prompt learning passes no positions on, so that left padding would move the tokens behind it. For such a
    model only prompts of equal length are batched, without padding.
    """

    def _loglikelihood_tokens(self, requests: list[Any], *arguments: Any, **options: Any) -> list[tuple[float, bool]]:
        _refuse_empty(requests)
        scores: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *arguments, **options)
        return scores

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **options: Any) -> Any:
        if not getattr(getattr(self.model, "active_peft_config", None), "is_prompt_learning", False):
            return super()._model_generate(context, max_length, stop, **options)
        width, lengths = context.shape[1], options.pop("attention_mask").sum(1).tolist()
        result = torch.full((len(lengths), max_length), self.tokenizer.pad_token_id, device=context.device)
        for length in dict.fromkeys(lengths):
            rows = [row for row, row_length in enumerate(lengths) if row_length == length]
            alone = context[rows, width - length :]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Position ids are not supported")
                generated = super()._model_generate(
                    alone, max_length - width + length, stop, attention_mask=torch.ones_like(alone), **options
                )
            result[rows, width : width + generated.shape[1] - length] = generated[:, length:]
        return result


class SharedPrefix(Apart):
    """Hugging Face model of lm-eval around a loaded model: its tokenization and generation, our likelihoods.

    Prompts, truncation and scores are those of HFLM. Shared contexts and prefixes are computed once (see
    `harness.evaluate.likelihood`). Generation is that of HFLM and shares nothing.
    """

    def __init__(self, model: Any, tokenizer: Any, evaluation: Evaluation, progress: Progress) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, **_options(evaluation, tokenizer))
        self._evaluation, self._report = evaluation, progress
        self.work: likelihood.Work | None = None

    def _loglikelihood_tokens(self, requests: list[Any], *arguments: Any, **options: Any) -> list[tuple[float, bool]]:
        """Score (texts, context tokens, continuation tokens). Long contexts are cut on the left, as in HFLM."""
        _refuse_empty(requests)
        pairs = []
        for _, context, continuation in requests:
            room = self.max_length + 1 - len(continuation)
            if room < 1:
                raise ValueError(
                    f"eval.tasks={self._evaluation.task}: a continuation has {len(continuation)} tokens and the "
                    f"model takes {self.max_length}: leave the task out, or take a model with a longer context"
                )
            pairs.append(Request(tuple(context)[-room:], tuple(continuation)))
        assert self._evaluation.batch_tokens is not None, "this backend has a budget"
        scores, work = likelihood.score(
            self.model,
            pairs,
            self._evaluation.precision,
            self._evaluation.batch_tokens,
            lambda done: self._report(done, len(pairs)),
        )
        self.work = work if self.work is None else self.work + work
        return [(score.log_likelihood, score.is_greedy) for score in scores]
