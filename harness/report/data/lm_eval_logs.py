"""Logs that `lm_eval --log_samples` wrote, of any version from 0.4.0: the scores of a model, and its items.

Since 0.4.3 a folder holds `results_<date>.json` with `samples_<task>_<date>.jsonl`; before, `results.json` with
`<arguments>_<task>.jsonl`, which is a JSON array without hashes. Versions before 0.4.6 do not name the filter of a
sample. All of them are brought into the present form. Nothing in a log is run.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.records.items import row_ids, text_hash

_DATE = re.compile(r"_(\d{4}-\d\d-\d\dT[\d.:-]+)$")
_NUMBERS = re.compile(r"\[(?:-?\d+(?:, -?\d+)*)?\]", re.ASCII)
_OF_SAMPLE = (
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "doc_hash", "prompt_hash", "target_hash",
    "filter", "metrics",
)  # fmt: skip
# metrics of which lm-eval's own register says that less is better, where neither a log nor its task does
_LESS_IS_BETTER = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score")
_TABLES = ("config", "configs", "groups", "group_subtasks", "higher_is_better", "n-samples", "n-shot", "versions")
_QUANTIZED = ("load_in_4bit", "load_in_8bit", "quantization", "autogptq", "gptqmodel", "gguf_file")
_NO_SCORE = ("bypass",)  # which --predict_only sets in the place of every metric
_LATEST = 2**35  # seconds since 1970
_NEEDED = ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps")
HOW = "evaluate with `lm_eval --log_samples --output_path FOLDER`"


@dataclass(frozen=True, eq=False)
class Log:
    """One results file of lm-eval, with the sample files beside it.

    Attributes:
        path: the results file.
        results: its content.
    """

    path: Path
    results: Mapping[str, Any]

    @cached_property
    def arguments(self) -> dict[str, str]:
        """Return the arguments of the model: `pretrained`, `peft`, `dtype`, ..."""
        given = (self.results.get("config") or {}).get("model_args") or ""
        if isinstance(given, Mapping):
            return {str(key): str(value) for key, value in given.items() if value is not None}
        return dict(part.partition("=")[::2] for part in str(given).split(",") if "=" in part)

    @property
    def adapter(self) -> str | None:
        """Return the adapter that was evaluated on the model, by transformers or vLLM; None without one."""
        return self.arguments.get("peft") or self.arguments.get("lora_local_path") or None

    @property
    def base(self) -> str | None:
        """Return the model that an adapter is on, with its revision and subfolder where they are named."""
        name = self.arguments.get("pretrained")
        parts = [part for key in ("revision", "subfolder") if (part := self.arguments.get(key)) and part != "main"]
        return f"{name}@{'/'.join(parts)}" if name and parts else name

    @property
    def model(self) -> str:
        """Return the model, or what was put on it; lm-eval's own name of it where it has no argument."""
        named = self.adapter or self.arguments.get("delta") or self._quantized or self.arguments.get("model")
        return str(named or self.results.get("model_name") or self.path.parent.name)

    @property
    def _quantized(self) -> str | None:
        """Return the model with the way in which it was quantized: its scores are others than those of the model."""
        given = {key: value for key in _QUANTIZED if (value := self.arguments.get(key)) and value.lower() != "false"}
        ways = [key if value.lower() == "true" else value for key, value in given.items()]
        return f"{self.base}@{'/'.join(ways)}" if self.base and ways else self.base

    @property
    def date(self) -> float:
        """Return the time of the evaluation, in seconds since 1970; 0 where it is not recorded."""
        given = self.results.get("date")
        return float(given) if isinstance(given, int | float) and 0 <= given < _LATEST else 0.0

    def config(self, task: str) -> Mapping[str, Any]:
        """Return the configuration of a task; {} where it is not recorded."""
        result = (self.results.get("configs") or {}).get(task)
        return result if isinstance(result, Mapping) else {}

    @cached_property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """Return the tasks and scored groups that stand at the top, each with the tasks whose items it is made of."""
        below = self.results.get("group_subtasks") or {}
        scored = {name for name in self.results["results"] if self._is_scored(name)}
        leaves = {name: tuple(dict.fromkeys(_leaves(name, below))) for name in scored}
        inside = {leaf for name, own in leaves.items() for leaf in own if below.get(name)}
        inside |= {part for name in scored for part in _groups_below(name, below)}
        return {name: leaves[name] for name in self.results["results"] if name in scored - inside}

    def _is_scored(self, name: str) -> bool:
        scores = {**self.results["results"].get(name, {}), **(self.results.get("groups") or {}).get(name, {})}
        measured = [key for key, value in scores.items() if "," in key and isinstance(value, int | float)]
        return any(key.partition(",")[0] not in _NO_SCORE for key in measured) and not self._is_unknown_group(name)

    def _is_unknown_group(self, name: str) -> bool:
        """Return whether it is a group whose parts are not recorded, as in version 0.4.0."""
        is_group = name in (self.results.get("groups") or {}) and name not in (self.results.get("configs") or {})
        return is_group and not (self.results.get("group_subtasks") or {}).get(name)

    def samples(self, leaf: str) -> list[dict[str, Any]]:
        """Read the samples of a task in the present form: with arguments as lists, hashes, a filter and metrics.

        Raises:
            ValueError: there is no file of them, it is damaged, or it lacks items.
        """
        path = self._samples_path(leaf)
        entries = _read_samples(path)
        filters = [
            str(member["name"]) for member in self.config(leaf).get("filter_list") or () if "name" in member
        ] or ["none"]
        seen: Counter[Any] = Counter()
        for entry in entries:
            place = seen[entry["doc_id"]]
            seen[entry["doc_id"]] += 1
            if "filter" not in entry and place >= len(filters):
                raise ValueError(f"{path}: item {entry['doc_id']} stands there {place + 1} times")
            entry.setdefault("filter", filters[min(place, len(filters) - 1)])
        self._check_count(leaf, len(seen), path)
        takes_several = self.config(leaf).get("output_type") == "multiple_choice"
        return [_present_form(entry, takes_several) for entry in entries]

    def _samples_path(self, leaf: str) -> Path:
        date = _DATE.search(self.path.stem)
        folder = self.path.parent
        if date:
            candidates = [folder / f"samples_{leaf}_{date[1]}.jsonl"]
        else:
            candidates = sorted(path for path in folder.glob("*.jsonl") if path.stem.endswith(f"_{leaf}"))
            own = re.sub("/|=", "__", str((self.results.get("config") or {}).get("model_args") or ""))
            candidates = [path for path in candidates if path.stem == f"{own}_{leaf}"] or candidates
        if len(candidates) != 1 or not candidates[0].is_file():
            label = f"samples_{leaf}_{date[1]}.jsonl" if date else f"*_{leaf}.jsonl"
            raise ValueError(
                f"{self.path}: the items of {leaf} are missing, {label} beside it: without them nothing can be paired; "
                f"{HOW}"
            )
        return candidates[0]

    def _check_count(self, leaf: str, count: int, path: Path) -> None:
        counts = (self.results.get("n-samples") or {}).get(leaf) or {}
        expected = counts.get("effective")
        if isinstance(expected, int) and expected != count:
            raise ValueError(f"{path}: {count} items, and the results are of {expected}: it is not the whole file")

    def better(self, names: Sequence[str]) -> dict[str, dict[str, bool]]:
        """Return for each task its metrics and whether a higher value is better, by its results or configuration."""
        stated = self.results.get("higher_is_better") or {}
        result: dict[str, dict[str, bool]] = {}
        for name in names:
            listed = [member for member in self.config(name).get("metric_list") or () if isinstance(member, Mapping)]
            of_config = {metric: _is_higher_better(metric, member) for member in listed if (metric := _metric(member))}
            of_results = {key: bool(value) for key, value in (stated.get(name) or {}).items() if value is not None}
            result[name] = {**of_config, **of_results}
        return result


def _metric(member: Mapping[str, Any]) -> str:
    return str(member.get("metric") or "")


def _is_higher_better(metric: str, member: Mapping[str, Any]) -> bool:
    stated = member.get("higher_is_better")
    return metric not in _LESS_IS_BETTER if stated is None else bool(stated)


def find_logs(folder: Path) -> list[Log]:
    """Return the logs below a folder, the oldest first.

    Raises:
        ValueError: the folder is missing or holds none.
    """
    if folder.is_file():
        raise ValueError(f"{folder}: is a file; give the folder that lm_eval wrote to (--output_path)")
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give one that lm_eval wrote to (--output_path)")
    # lm-eval 0.4.3 to 0.4.7 make a folder of the name where --output_path is results.json
    files = [path for path in sorted(folder.rglob("*.json")) if path.is_file()]
    logs = [Log(path, results) for path in files if (results := _results(path)) is not None]
    if not logs:
        only = any(folder.rglob("samples_*.jsonl"))
        missing = "samples and no results_*.json, which says how they were made" if only else "no results of lm-eval"
        raise ValueError(f"{folder}: {missing}; {HOW}")
    return sorted(logs, key=lambda log: (log.date, str(log.path)))


def by_content(ids: Sequence[str]) -> list[str]:
    """Return item ids by the hash of the document alone: its number is the place in a file that may be ordered anew.

    Each id is `<task>:<hash>:<number>`; documents of equal content are numbered in their order.
    """
    return row_ids([member.rpartition(":")[0] for member in ids])


def _leaves(name: str, below: Mapping[str, Sequence[str]], above: tuple[str, ...] = ()) -> Iterator[str]:
    parts = () if name in above else below.get(name) or ()
    if not parts:
        yield name
    for part in parts:
        yield from _leaves(part, below, (*above, name))


def _groups_below(name: str, below: Mapping[str, Sequence[str]], above: tuple[str, ...] = ()) -> Iterator[str]:
    for part in below.get(name) or () if name not in above else ():
        yield part
        yield from _groups_below(part, below, (*above, name))


def _results(path: Path) -> Mapping[str, Any] | None:
    """Return the content of a results file; None for another JSON file.

    Raises:
        ValueError: a file with the name of results cannot be read, or a part of it is of another kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        if path.stem == "results" or path.stem.startswith("results_"):
            raise ValueError(f"{path}: not a results file, the JSON breaks off or is damaged ({error})") from error
        return None
    is_results = isinstance(content, dict) and isinstance(content.get("results"), dict) and "configs" in content
    if not is_results:
        return None
    odd = [key for key in _TABLES if not isinstance(content.get(key) or {}, Mapping)]
    for key in ("results", "groups", "n-samples"):
        entries = content.get(key) or {}
        if key not in odd and not all(isinstance(entry, Mapping) for entry in entries.values()):
            odd.append(key)
    if odd:
        raise ValueError(f"{path}: not as lm-eval writes it, {' and '.join(odd)} of another kind; {HOW}")
    results: Mapping[str, Any] = content
    return results


def _read_samples(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    entries: list[Any] = []
    try:
        if text.lstrip().startswith("["):
            entries = json.loads(text)
        else:
            entries = [json.loads(line) for line in text.split("\n") if line.strip()]  # U+2028 ends no line of JSON
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, a sample is no JSON ({error})") from error
    for number, entry in enumerate(entries, 1):
        missing = [key for key in _NEEDED if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise ValueError(f"{path}: sample {number} has no {', '.join(missing)}; {HOW}")
        if not isinstance(entry["doc"], dict) or not all(entry[key] for key in ("arguments", "resps")):
            raise ValueError(
                f"{path}: sample {number} is not as lm-eval writes it: no document, question or answer; {HOW}"
            )
    if not entries:
        raise ValueError(f"{path}: no samples; {HOW}")
    return entries


def _present_form(entry: dict[str, Any], takes_several: bool) -> dict[str, Any]:
    """Return a sample as lm-eval holds it in memory. With `takes_several` a target may be a list of right choices."""
    arguments, target = entry["arguments"], entry["target"]
    if takes_several and isinstance(target, str) and _NUMBERS.fullmatch(target):  # a list is written as its text
        target = [int(number) for number in re.findall(r"-?\d+", target)]
    if isinstance(arguments, Mapping):  # {"gen_args_0": {"arg_0": ..., "arg_1": ...}, ...}
        arguments = [list(member.values()) for member in arguments.values()]
    metrics = entry.get("metrics")
    if metrics is None:
        metrics = [key for key in entry if key not in _OF_SAMPLE]
    document = json.dumps(entry["doc"], indent=2, ensure_ascii=False)
    return {
        **entry,
        "target": target,
        "arguments": arguments,
        "metrics": [name for name in metrics if name in entry],
        "doc_hash": entry.get("doc_hash") or text_hash(document),
    }
