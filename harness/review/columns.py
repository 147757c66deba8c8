"""Roles of a table's columns, by the words of their headings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

NAMES = ("model", "name", "run")  # of a row, where no column names its method
_METHOD = re.compile(
    r"(?:\w+_)?(?:method|approach|variant|adapter|algorithm|technique|strategy)s?(?:_name)?|(?:peft|fine_?tuning|tuning)"
)
MODELS = ("base_model", "base", "model", "backbone")  # whose rows are compared with each other
ITEMS = ("n", "items", "num_items", "n_items", "samples", "n_samples", "num_samples", "#items", "#samples")
SEEDS = ("seeds", "runs", "n_seeds", "num_seeds", "#seeds", "n_runs", "#runs")
SEED = ("seed", "random_seed")  # its number, in a table with a row for each run
RATES = ("lr", "learning_rate", "rate", "eta", "\u03b7", "step_size")
RANKS = ("r", "rank", "lora_r", "lora_rank")
ALPHAS = ("alpha", "lora_alpha", "\u03b1")
TUNED = ("tuned", "chosen_on", "selected_on")
_SETTING = re.compile(  # what ought to be equal beside the method
    r"(?:num_train_)?epochs?|(?:num_|max_|train_|training_)*steps|(?:\w+_)?batch(?:_\w+)?|weight_decay|wd|warm_?up\w*|"
    r"(?:\w+_)?schedule[r]?(?:_\w+)?|(?:\w+_)?optimi[sz]er|dtype|precision|(?:max|seq|sequence|context|cutoff)_(?:\w+_)?"
    r"len(?:gth)?|base(?:_model)?|(?:train(?:ing)?_)?data(?:set)?|(?:prompt_)?template|prompt|(?:n_)?shots|num_fewshot"
)
_NOT_SCORES = re.compile(  # words of headings above numbers that are no scores
    r"\b(?:params?|parameters|trainable|trained|memory|mem|vram|gpus?|storage|disk|size|gi?b|mi?b|time|runtime|walltime|"
    r"wall|duration|hours?|minutes|seconds|tokens|throughput|latency|speed|speedup|t?flops|mfu|loss|losses|nll|"
    r"perplexity|ppl|cost|price|usd|energy|kwh|pvalue|ranks?|year|version|layers?|dropout|accumulation|brier|delta|"
    r"\u03b4|gains?|changes?|diff|difference|improvement|vs|versus)\b|/\s*s(?:ec)?\b"
)
_UNITS = re.compile(
    r"gi?b|mi?b|kb|s|secs?|seconds|mins?|minutes|h|hrs?|hours|ms|m|k|b|\$|usd|eur|k?j|k?wh?|x|pts|pp|points|nats|bits|"
    r"millions|billions|(?:tok|tokens|it|steps|samples)/s|s/(?:it|step)"
)
_NOT_SCORE_KEYS = re.compile(
    r"q|id|#|(?:\w+_)?p(?:_?val(?:ue)?|_adj(?:usted)?)?|(?:9\d%?_)?(?:ci|interval|confidence_interval)(?:_\w+)?"
)
# shares that are no number of right answers over the items, and scores that are no shares of 1 or are better the lower
_NOT_COUNTED = re.compile(
    r"\b(?:rouge\w*|bleu\w*|sacrebleu|meteor|bertscore|chrf\w*|comet|f1|macro|micro|win|winrate|lc|pass|mcc|matthews|"
    r"cola|stsb?|p right|pearson\w*|spearman\w*|corr|correlation|ndcg|mrr|auc|auroc|avg|average|mean)\b"
)
_NO_SHARES = re.compile(
    r"\u2193|\b(?:mt bench|mtbench|elo|rating|wer|cer|error|errors|toxicity|ece|forgetting|lower)\b"
)
_SPREADS = r"(?:std|sd|se|sem|stderr|std_?dev|std_?err|standard_(?:error|deviation)|err|\+-|\+/-|\u00b1)"
_ERRORS = re.compile(rf"^(?:(.+?)[ _,]+)?{_SPREADS}$")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its own heading.
        whole: with the headings above it.
    """

    title: str
    whole: str

    @cached_property
    def name(self) -> str:
        """Return the title without units, arrows and counts."""
        return re.sub(r"\s*[\(\[].*?[\)\]]|\s*[\u2191\u2193%]", "", self.title.lstrip("*")).strip() or self.title

    @cached_property
    def key(self) -> str:
        """Return the name as an identifier."""
        return re.sub(r"[\s-]+", "_", self.name.lower()).strip("_")

    @property
    def _words(self) -> str:
        return re.sub(r"[\s_@-]+", " ", self.whole.lower())

    @property
    def error_of(self) -> str | None:
        """Return the key of the column whose errors it holds, "" for the one before it; None where it holds none."""
        if re.search(rf"[\(\[]\s*{_SPREADS}\s*[\)\]]", self.title, re.IGNORECASE) and self.key:
            return self.key
        match = _ERRORS.match(self.key)
        return None if match is None else match[1] or ""

    @property
    def items_of(self) -> str | None:
        """Return the beginning of the keys of the columns whose numbers of items it holds; None where it holds none."""
        match = re.fullmatch(r"(.+?)[/_ ]n(?:um)?(?:_items|_samples)?", self.key)
        return match[1] if match else None

    @property
    def is_method(self) -> bool:
        """Return whether it names methods."""
        return bool(_METHOD.fullmatch(self.key))

    @property
    def is_setting(self) -> bool:
        """Return whether it holds a setting that ought to be equal."""
        return bool(_SETTING.fullmatch(self.key))

    @property
    def may_be_score(self) -> bool:
        """Return whether numbers in it are scores."""
        units = re.findall(r"[\(\[]\s*([^\)\]]*?)\s*[\)\]]", self._words)
        is_cost = _NOT_SCORES.search(self._words) or any(_UNITS.fullmatch(unit) for unit in units)
        others = {*NAMES, *MODELS, *ITEMS, *SEEDS, *SEED, *RATES, *RANKS, *ALPHAS, *TUNED}
        is_beside = self.is_method or self.error_of is not None or self.items_of is not None
        return not (self.key in others or is_cost or is_beside or _NOT_SCORE_KEYS.fullmatch(self.key))

    @property
    def is_share(self) -> bool:
        """Return whether its scores are shares of which more is better."""
        return not _NO_SHARES.search(self._words)

    @property
    def is_counted(self) -> bool:
        """Return whether its scores are numbers of right answers over the items."""
        return self.is_share and not _NOT_COUNTED.search(self._words)

    @property
    def is_in_percent(self) -> bool:
        """Return whether its heading says percent; that of a "95 % CI" does not."""
        return bool(re.search(r"(?<!\d)(?<!\d )%|\bpercent\b", self.whole))

    @property
    def items(self) -> int | None:
        """Return the number of items that its heading names."""
        match = re.search(r"\bn\s*=\s*(\d[\d,]*)\b(?!\s*(?:seed|run|shot))", self.whole, re.IGNORECASE)
        return int(match[1].replace(",", "")) if match else None

    @property
    def factor(self) -> float:
        """Return the power of ten that its heading names, as in `LR (x 10^-4)`."""
        match = re.search(r"[x\u00d7]\s*10\^(-?\d+)", self.whole)
        return 10.0 ** int(match[1]) if match else 1.0


def columns_of(head: Sequence[Sequence[str]]) -> list[Column]:
    """Return the columns below a heading of one line or several.

    The lowest line counts. Those above it join a title that is a unit or a part of another, or that two columns share.
    """
    stacks = [[part for part in stack if part] for stack in zip(*head, strict=True)]
    lowest = [stack[-1] if stack else "" for stack in stacks]
    titles = [
        " ".join(stack) if stack and (lowest.count(own) > 1 or _is_fragment(own)) else own
        for stack, own in zip(stacks, lowest, strict=True)
    ]
    return [Column(title, " ".join(stack)) for title, stack in zip(titles, stacks, strict=True)]


def _is_fragment(title: str) -> bool:
    return title.startswith(("(", "[")) or title.count("(") != title.count(")")
