"""The claims of what a page says of its own making: settings, machines, versions, definitions, from the files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ledger import Claim, claim_words
from traced_report import Traced
from traced_shown import DATA, GIB, NAMES, amount, flat, metric_name, one_line, setting, task_name


def attempts(traced: Traced) -> list[dict[str, Any]]:
    """The last one of every result."""
    return [run.attempt for line in traced.files.lines for run in line.every if run.record]


def compared(traced: Traced) -> Iterator[Claim]:
    """The sentences on model, data, training and tuning, with the numbers of the recipes and of the rows."""
    section, recipes = "What was compared", [line.recipe for line in traced.files.trained]
    first = next(run for line in traced.files.trained for run in line.runs)
    model, rows, train = first.record["config"]["model"], first.attempt["data"], recipes[0]["train"]
    yield claim_words(section, f"SmolLM2-135M-Instruct ({model['name']}, from the package {model['package']};")
    yield claim_words(section, f"license: {model['license']})")
    yield claim_words("Results", "SmolLM2-135M-Instruct")
    names = [rows for line in recipes for rows in line["data"].get("train") or first.record["config"]["data"]["train"]]
    yield from (claim_words(section, f"({one['dataset']}") for one in names)
    yield claim_words(section, f"{rows['train_rows']:,} rows and hold out {rows['validation_rows']:,} for validation")
    split = rows["train_rows"] + rows["validation_rows"]
    yield claim_words(section, f"({100 * rows['validation_rows'] / split:.1f} % of the {split:,} rows)")
    yield claim_words(section, f"and {rows['test_rows']:,} for testing")
    if rows["removed"] is None:
        yield claim_words(section, f"{rows['removed_in_test']:,} whose prompt occurs in a test set")
        yield claim_words(section, f"{rows['removed_too_long']:,} longer than")
    for kind, count in (rows["removed"] or {}).items():
        yield claim_words(section, f"{count:,} {REMOVED[kind]}") if count else claim_words(section, "")
    yield claim_words(section, f"{train['max_steps']} optimizer steps in {train['precision'].upper()}")
    yield claim_words(section, f"batches of {train['global_batch_size']} sequences")
    yield claim_words(
        section, f"micro-batches of {train['micro_batch_size']}, sequences of at most {train['max_length']}"
    )
    yield claim_words(section, f"warmup over {100 * train['warmup_steps']:g} % of the steps")
    yield claim_words(section, f"weight decay {train['weight_decay']:g} and gradients clipped at norm 1")
    if seen := sum(first.attempt["training"].get("sequences") or ()):
        yield claim_words(section, f"{seen:,} sequences ({seen / rows['train_rows']:.2g} epochs)")
    yield from tuning(traced, section)


REMOVED = {
    "in_test": "whose prompt occurs in a test set", "duplicate": "exact duplicates", "near_duplicate": "near",
    "contradiction": "with conflicting answers", "too_long": "longer than the maximum sequence length",
}  # fmt: skip


def tuning(traced: Traced, section: str) -> Iterator[Claim]:
    known = traced.files.sweep["tuning"]
    if not known:
        return
    seeds, final = (", ".join(map(str, known[key])) for key in ("seeds", "final_seeds"))
    yield claim_words(section, f"tuned with {known['trials']} trials over the learning rate (seed {seeds})")
    yield claim_words(section, f"only for the final runs (seeds {final})")
    trials = [run for runs in traced.files.trials.values() for run in runs]
    failed = sum(run.status not in ("ok", "missing") for run in trials)
    yield claim_words(section, f"{failed} of {len(trials)} trials failed or diverged")
    yield claim_words(section, f"Tuning took {amount(tuning_seconds(trials) / 3600)} device hours")
    edges = sum(line.label.endswith("(undertuned)") for line in traced.files.trained)
    yield claim_words(section, f"The selected value of {edges} of {len(traced.files.trials)} methods")


def tuning_seconds(runs: list[Any]) -> float:
    """The seconds of loading, training and validating, on all processes."""
    return sum(
        attempt["phases"][phase]["seconds"] * (attempt["provenance"].get("num_processes") or 1)
        for run in runs
        for attempt in run.record["attempts"]
        for phase in ("load", "train", "validate")
        if phase in attempt["phases"]
    )


def definitions(traced: Traced, section: str) -> Iterator[Claim]:
    trainings = [run.attempt["training"] for line in traced.files.trained for run in line.runs]
    dropped = ", ".join(map(str, sorted({one["warmup_steps_dropped"] for one in trainings})))
    steps = ", ".join(map(str, sorted({len(one["losses"]) for one in trainings})))
    yield claim_words(section, f"after the first {dropped} optimizer steps")
    yield claim_words(section, f"Optimizer steps taken: {steps}")


def looks(traced: Traced, section: str) -> Iterator[Claim]:
    ways: dict[str, dict[str, None]] = {}
    for one in {contest.eval_id: contest for contest in traced.contests.values()}.values():
        asked = one.look.record["evaluation"]
        sizes = ((asked["batch_tokens"], "tokens"), (asked["batch_size"], "rows"))
        batch = " or ".join(f"{size:,} {unit}" for size, unit in sizes if size is not None)
        way = f"precision {asked['precision'].upper()}, batches of {batch}"
        ways.setdefault(way, {})[task_name(one.look.task)] = None
    assert len(ways) == 1, "evaluations that differ have a test of their own"
    yield claim_words(section, f"Evaluations: {next(iter(ways))}")


def origin(traced: Traced, section: str) -> Iterator[Claim]:
    found = attempts(traced)
    started = sorted(one["started_at"] for one in found)
    yield claim_words(section, f"started: {started[0]} to {started[-1]} (UTC)")
    for key in dict.fromkeys(key for one in found for key in one["provenance"] if key != "command"):
        values = dict.fromkeys(_shown(key, one["provenance"][key]) for one in found if key in one["provenance"])
        yield claim_words(section, f"{NAMES['provenance'][key]['display']}: {'; '.join(values)}")
    yield from sources(traced, section)
    yield from made_again(traced, section)


def sources(traced: Traced, section: str) -> Iterator[Claim]:
    """Where the model and the data came from, and what identifies their content."""
    yield from (claim_words(section, one) for part in ("model", "data") for one in source_texts(traced, part))


def source_texts(traced: Traced, part: str) -> list[str]:
    found = []
    for line in traced.files.lines:
        config = line.runs[0].record["config"][part] if line.runs[0].record else None
        if config is None or (part == "data" and line.is_base):
            continue
        keys = [key for key in ("source", "package", "hub_id", "revision", "content") if config.get(key)]
        known = [f"{NAMES['provenance'][key]['display']} {one_line(config[key])}" for key in keys]
        parts = ("dataset", "subset", "split", "file")
        known += [f"rows {'/'.join(rows[key] for key in parts if key in rows)}" for rows in config.get("train", ())]
        name = {"model": "base model SmolLM2-135M-Instruct", "data": f"training data {DATA}"}[part]
        found.append(f"{name}: {', '.join(known)}, license {config.get('license') or 'not recorded'}")
    return [*dict.fromkeys(found)]


def data_cards(traced: Traced) -> Iterator[Claim]:
    """What the check of the training rows found."""
    runs = [run for line in traced.files.trained for run in line.runs]
    for check in dict.fromkeys(run.attempt["data"].get("check") for run in runs):
        if check is None:
            continue
        found = json.loads((traced.runs / "data" / f"{check}.json").read_text())
        parts = [
            "{train_rows:,} training, {validation_rows:,} validation, {test_rows:,} test rows".format(**found),
            *(f"{count:,} {kind.replace('_', ' ')} left out" for kind, count in found["removed"].items()),
            f"{found['near']['found']:,} near duplicates",
            f"conflicting answers to {found['contradictions'][0]:,} prompts",
        ]
        yield claim_words("Data", f"(data/{found['data']}-{check}.md)")
        yield claim_words("Data", f"{DATA}: {'; '.join(parts)}")
        yield claim_words("Data", f"License of the data: {found['data_license']}")
        yield claim_words("Data", f"of SmolLM2-135M-Instruct: {found['model_license']}")


def made_again(traced: Traced, section: str) -> Iterator[Claim]:
    """Runs whose weights were replaced: every score before and now, and the commits."""
    for run in (run for line in traced.files.lines for run in line.runs if run.record):
        label = next(line.name for line in traced.files.lines if run in line.runs)
        scores, changes = [], []
        for eval_id, look in run.looks.items():
            path = traced.runs / run.recipe_id / f"seed-{run.seed}" / "earlier" / "1" / f"{eval_id}.json"
            if not path.is_file():
                continue
            old, now = json.loads(path.read_text()), look.record
            for metric in sorted(now["metrics"]):
                before, after = old["metrics"][metric]["value"], now["metrics"][metric]["value"]
                moved = f"{before:.4g} -> {after:.4g} ({after - before:+.2g})"
                scores.append(f"{task_name(look.task)} {metric_name(metric)} {moved}")
            changes.append(f"commit {old['provenance']['commit'][:12]} -> {now['provenance']['commit'][:12]}")
        for text in scores:
            yield claim_words(section, text)
        if scores:
            yield claim_words(section, f"trained again: {label} seed {run.seed}:")
            yield claim_words(section, f"made with {changes[0]}")


def command(traced: Traced, section: str) -> Iterator[Claim]:
    yield claim_words(section, traced.files.sweep["command"])


def _shown(key: str, value: Any) -> str:
    """A fact in words: sizes in GiB, yes and no; of several each with its name."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(name, own)}" for name, own in sorted(flat(value).items())) or "none"
    if value is None:
        return "not recorded"
    if isinstance(value, bool):
        return {True: "yes", False: "no"}[value]
    return f"{value / GIB:.1f} GiB" if key.endswith("_bytes") else setting(value)
