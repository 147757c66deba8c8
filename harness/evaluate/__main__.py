"""`python -m harness.evaluate MODEL_OR_RUN... --tasks TASK,...`: score what is there; nothing is trained.

Exit codes: 0 every score is there; 1 an evaluation failed; 2 the input was wrong and nothing was started.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.config import config, permissions
from harness.config.compose import experiments
from harness.config.experiment import Evaluation, Experiment, evaluations
from harness.records import record
from harness.records.help_text import HelpFormatter
from harness.records.record import EvaluationRecord, Metric, RunRecord
from harness.records.settings import EvalSpec
from harness.records.untrusted import echo, printable
from harness.run import adapters_asked, foreign, inputs, isolate, model_asked, run
from harness.run import adopted as adopted_runs
from harness.run.progress import board, ending
from harness.sources import pickles

_EXAMPLES = """\
MODEL_OR_RUN is one of
  runs/<recipe_id>/seed-<n>   a run: its adapter on its base; scores are stored with the run
  runs                        every run in the folder that has weights, base models included
  /models/mine                a Hugging Face model folder
  smollm2-135m                a model of conf/model
  Qwen/Qwen3-0.6B             a model on the Hub
  adapters/mine               any PEFT adapter folder, on the base that its config names or on --base
  owner/mine@revision         an adapter on the Hub; NAME=adapters/mine gives it a name, and seed1 in it is its seed
Scores of a plain model are stored in runs/ as those of an untrained base. Adapters of one base share one loaded base
and are compared with it in a report.

--tasks takes tasks and groups of lm-eval, your own (eval.include_path=FOLDER) and the sets of conf/task_sets.yaml:
  smoke commonsense knowledge math code instruction truthful forgetting safety
Everything else is a setting of the eval group: eval.limit=100 eval.num_fewshot=5 eval.chat_template=true
eval.backend=hf eval.retention=[piqa] eval.source=path eval.path=MIRROR. Settings not given are those of the run.
For a model larger than one GPU, set model.device_map=auto.

  python -m harness.evaluate runs/1a2b3c4d/seed-0 --tasks mmlu,gsm8k eval.limit=200
"""

_SPREAD = "model.device_map="
_TRUST = "model.trust_remote_code="
_NOT_HERE = ("tasks=", "generation_rows=", "general_text_passages=", "heldout_limit=", "sampling.", "test=")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="harness evaluate",
        description="Evaluate runs, models and adapters on tasks, without training. Existing scores are reused.",
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "what", nargs="+", metavar="MODEL_OR_RUN", help="see below; may be followed by settings such as eval.limit=100"
    )
    parser.add_argument("--tasks", required=True, metavar="TASK,...", help="tasks to evaluate, separated by commas")
    parser.add_argument(
        "--runs-dir", default="runs", help="folder for the scores of plain models and adapters (default: runs)"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a list: run, method, model, seed, status, reason, evaluations of each run",
    )
    parser.add_argument("--force", action="store_true", help="evaluate again instead of reusing scores")
    parser.add_argument(
        "--base", metavar="MODEL", help="base model of the adapters (default: the one in adapter_config.json)"
    )
    parser.add_argument("--reports-dir", default="reports", help="folder for the report on adapters (default: reports)")
    given = parser.parse_intermixed_args(arguments)
    try:
        if not given.tasks.strip(" ,[]"):
            raise ValueError("--tasks names none; `--help` shows some")
        words = [word for word in given.what if "=" in word and not _names_adapter(word)]
        names = [word for word in given.what if word not in words]
        adapters = {name: adapter for name in names if (adapter := _adapter(name))}
        others = [name for name in names if name not in adapters]
        runs = [experiment for name in others for experiment in found(name, given.tasks, words, given.runs_dir)]
        runs = [dataclasses.replace(inputs.resolve(experiment, board.say), force=given.force) for experiment in runs]
        adopted = _adopted(list(adapters.values()), words, given)
        bases = [dataclasses.replace(base, force=given.force) for base in dict.fromkeys(base for _, base in adopted)]
        runs = [*runs, *(base for base in bases if base not in runs)]
        _check([*runs, *(adapter.experiment for adapter, _ in adopted)], [adapter for adapter, _ in adopted])
        results = [_evaluated(experiment) for experiment in runs]
        results += _scored([adapter for adapter, _ in adopted], given.runs_dir)
    except ValueError as error:
        echo(f"harness.evaluate: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    compared = [*bases, *(adapter.experiment for adapter, _ in adopted)]
    runs = [*runs, *(adapter.experiment for adapter, _ in adopted)]
    if given.json:
        echo(
            json.dumps(
                [_document(experiment, result) for experiment, result in zip(runs, results, strict=True)], indent=1
            )
        )
    else:
        Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(_table(runs))
    if adopted:
        _report(compared, given)
    return 0 if all(result.status == "ok" for result in results) else 1


def _names_adapter(word: str) -> bool:
    """Return whether a word is NAME=ADAPTER and no setting."""
    name, _, place = word.partition("=")
    return name.partition(".")[0] not in ("eval", "model") and ("/" in place or foreign.is_adapter(Path(place)))


def _adapter(word: str) -> foreign.Adapter | None:
    """Return the adapter that a word stands for; None for a run, a model, and what is neither."""
    is_model = (Path(word) / "config.json").is_file() and not foreign.is_adapter(Path(word))
    is_other = is_model or (Path(word) / "record.json").is_file() or word in model_asked.names()
    return None if is_other else adapters_asked.located(word)


def _adopted(
    adapters: list[foreign.Adapter], words: Sequence[str], given: argparse.Namespace
) -> list[tuple[adopted_runs.Adopted, Experiment]]:
    """Return each adapter as it is scored, with its untouched base.

    Raises:
        ValueError: a base is not here, adapters cannot be told apart, or a setting is wrong.
    """
    adapters = adapters_asked.named(adapters)
    adapters_asked.check_names(adapters)
    changed = [word for word in words if word.startswith("eval.weights=") and word != "eval.weights=attached"]
    if adapters and changed:
        raise ValueError(
            f"{changed[-1]}: an adapter from elsewhere is scored as it is, attached to its base; leave the setting out"
        )
    bases: dict[tuple[str, ...], Experiment] = {}
    made = []
    for adapter in adapters:
        model = tuple(adapters_asked.base_words(adapter, given.base))
        if model not in bases:
            cell = ["method=base", *model, *_checked_words(words, given.tasks), f"runs_dir={given.runs_dir}"]
            [(_, composed)] = experiments(cell)
            bases[model] = inputs.resolve(composed, board.say)
        experiment = dataclasses.replace(adapters_asked.experiment_of(adapter, bases[model]), force=given.force)
        made.append((adopted_runs.Adopted(adapter, experiment), bases[model]))
    return made


def _scored(adopted: Sequence[adopted_runs.Adopted], runs_dir: str) -> list[RunRecord]:
    if not adopted:
        return []
    log = Path(runs_dir) / "adapters.log"
    board.begin(f"{len(adopted)} adapters")
    try:
        return adopted_runs.evaluate(adopted, log, board)
    finally:
        board.end()


def _report(compared: Sequence[Experiment], given: argparse.Namespace) -> None:
    """Write the comparison of adapters with their bases; its table goes to stderr beside JSON."""
    name = adapters_asked.write_comparison(compared, Path(given.runs_dir))
    command = [sys.executable, "-m", "harness.report", given.runs_dir, "--sweep", name]
    command += ["--reports-dir", given.reports_dir, *([] if given.json else ["--terminal"])]
    sys.stdout.flush()
    subprocess.run(command, check=False, stdout=sys.stderr if given.json else None)


def found(name: str, tasks: str, words: Sequence[str], runs_dir: str) -> list[Experiment]:
    """Return the experiments that a name on the command line stands for, with these tasks.

    Raises:
        ValueError: the name is neither a run nor a model, or a setting is wrong.
    """
    words = _checked_words(words, tasks)
    folder = Path(name)
    if (folder / "record.json").is_file():
        return [_of_run(folder, words)]
    below = [path.parent for path in record.find_runs(folder)]
    if below:
        if runs := [_of_run(path, words) for path in below if _has_weights(path)]:
            return runs
        raise ValueError(f"{name}: none of the {len(below)} runs in it has weights of this project to evaluate")
    inside = [str(path.parent) for path in sorted(folder.glob("*/adapter_config.json"))]
    if inside and not (folder / "config.json").is_file():  # PEFT saves an adapter with a name in a folder of this name
        raise ValueError(f"{name}: no adapter itself; give one of those in it: {', '.join(inside[:8])}")
    model = model_asked.words(name)
    return [experiment for _, experiment in experiments(["method=base", *model, *words, f"runs_dir={runs_dir}"])]


def _checked_words(words: Sequence[str], tasks: str) -> list[str]:
    """Return the settings of the command line with these tasks.

    Raises:
        ValueError: a setting is of another group, or of no use here.
    """
    wrong = [word for word in words if not word.startswith(("eval=", "eval.", _SPREAD, _TRUST))]
    if wrong:
        raise ValueError(
            f"{' '.join(wrong)}: only settings of the eval group, eval=... or eval.<name>=..., {_SPREAD}auto and "
            f"{_TRUST}true"
        )
    idle = [word for word in words if word.removeprefix("eval.").startswith(_NOT_HERE)]
    if idle:
        raise ValueError(
            f"{' '.join(idle)}: this command asks the tasks of --tasks and nothing else. For held-out losses, general "
            "text and generated answers give the run's own command again with such settings: it trains nothing anew"
        )
    return [*words, f"eval.tasks=[{tasks}]"]


def _has_weights(folder: Path) -> bool:
    run = record.read(RunRecord, folder / "record.json")
    there = (folder / "weights").is_dir() or (run.status == "ok" and run.recipe.get("train") is None)
    return run.origin is None and there  # weights from elsewhere are evaluated by their own place


def _of_run(folder: Path, words: Sequence[str]) -> Experiment:
    record_of_run = record.read(RunRecord, folder / "record.json")
    pickles.refuse(folder / "weights", str(folder / "weights"))
    experiment = config.from_record(record_of_run)
    runs_dir = str(folder.resolve().parent.parent)
    permissions.insist(record_of_run.config, words, ("model", "eval"), str(folder), "")
    composed = experiments(["method=base", *words])[0][1]
    own = permissions.granted(experiment.model, "model", words, composed.model)
    model = dataclasses.replace(own, device_map=composed.model.device_map)
    spec = _changed(experiment.eval, composed.eval, words)
    changed = dataclasses.replace(experiment, model=model, eval=spec, runs_dir=runs_dir)
    if changed.folder.resolve() != folder.resolve():
        raise ValueError(f"{folder}: its recipe is {changed.recipe_id} to this version of the program, which cannot be")
    return changed


def _changed(own: EvalSpec, composed: EvalSpec, words: Sequence[str]) -> EvalSpec:
    """Return the settings of a run, overridden by those that were given on the command line."""
    named = {word[len("eval.") :].partition("=")[0] for word in words if word.startswith("eval.")}
    if any(word.startswith("eval=") for word in words):
        return dataclasses.replace(composed, source=own.source, path=own.path) if "source" not in named else composed
    changes = {name: getattr(composed, name) for name in named | {"retention"}}
    retention = (*own.retention, *changes["retention"]) if "retention" not in named else changes["retention"]
    return dataclasses.replace(own, **{**changes, "retention": tuple(dict.fromkeys(retention)), "test": "always"})


def _check(wanted_runs: Sequence[Experiment], adopted: Sequence[adopted_runs.Adopted]) -> None:
    """Check before anything starts that every task can be loaded, and that adapters have the shapes of their bases.

    Raises:
        ValueError: a task cannot be loaded, an adapter is of another base, or the check itself failed.
    """
    for experiment in wanted_runs:
        inputs.fetch(experiment, board.say)
    log = Path(wanted_runs[0].runs_dir) / "check.log"
    messages = [message for _, _, message in _checked("harness.run.preflight:check_tasks", list(wanted_runs), log)]
    if not messages and adopted:
        pairs = [(entry.adapter, entry.experiment.model) for entry in adopted]
        messages = _checked("harness.run.swapped:misfits", pairs, log)
    if messages:
        raise ValueError("; ".join(dict.fromkeys(messages)))


def _checked(function: str, subject: Any, log: Path) -> Any:
    board.start_bar("checking")
    try:
        ended = isolate.call(function, subject, log=log, on_event=board, terms=isolate.REPEATABLE)
    finally:
        board.end()
    if ended.kind != "returned":
        raise ValueError(f"the check before the evaluation broke: {ended.reason}; see {log}")
    return ended.value or ()


def _evaluated(experiment: Experiment) -> RunRecord:
    board.begin(_label(experiment))
    try:
        result = run.evaluate(experiment, board)
    except BaseException:
        board.end("interrupted")
        raise
    board.end("" if result.status == "ok" else ending(result))
    return result


def _label(experiment: Experiment) -> str:
    name = experiment.method.name if experiment.method.trains else experiment.model.name
    return f"{name} {experiment.recipe_id}/seed-{experiment.run_seed}"


def _table(wanted_runs: Sequence[Experiment]) -> Table:
    """Return the table of scores, one line per metric."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column in ("Model or run", "Task", "Metric", "Score", "Items"):
        table.add_column(column, justify="right" if column in ("Score", "Items") else "left", overflow="fold")
    table.add_column("Note", overflow="fold")
    for experiment in wanted_runs:
        label = _label(experiment)
        for wanted in evaluations(experiment):
            for line in _lines(experiment, wanted) if wanted.kind == "lm_eval" else ():
                table.add_row(*(Text(printable(cell)) for cell in (label, wanted.task, *line)))
                label = ""
    return table


def _document(experiment: Experiment, result: RunRecord) -> dict[str, Any]:
    """Return `run` (its folder), `method`, `model`, `seed`, `status`, `reason` and `evaluations`.

    Each evaluation holds what its file holds (`task`, `metrics` with value, stderr and chance, `num_items`, ...), or
    null under `record` if it could not be made.
    """
    return {
        "run": str(experiment.folder),
        "method": experiment.method.name,
        "model": experiment.model.name,
        "seed": experiment.run_seed,
        "status": result.status,
        "reason": result.current.reason,
        "evaluations": [
            {"task": wanted.task, "record": _kept(experiment, wanted)}
            for wanted in evaluations(experiment)
            if wanted.kind == "lm_eval"
        ],
    }


def _kept(experiment: Experiment, wanted: Evaluation) -> dict[str, Any] | None:
    try:
        score = record.read(EvaluationRecord, record.evaluation_path(experiment.folder, wanted.eval_id))
    except FileNotFoundError:
        return None
    return dataclasses.asdict(score)


def _lines(experiment: Experiment, wanted: Evaluation) -> Iterable[tuple[str, str, str, str]]:
    try:
        score = record.read(EvaluationRecord, record.evaluation_path(experiment.folder, wanted.eval_id))
    except FileNotFoundError:
        return [("-", "not there", "-", "")]
    return [
        (name, _number(metric), f"{score.num_items:,}", _note(score, metric))
        for name, metric in sorted(score.metrics.items())
    ]


def _number(metric: Metric) -> str:
    return f"{metric.value:.4f}" + (f" \u00b1 {metric.stderr:.4f}" if metric.stderr is not None else "")


def _note(score: EvaluationRecord, metric: Metric) -> str:
    """Return the remarks on a score: at chance, answers that could not be read, the source of the few-shot examples."""
    notes = []
    if metric.chance is not None and metric.value - 2 * (metric.stderr or 0) <= metric.chance:
        notes.append(f"at chance ({metric.chance:.3g})")
    if score.num_unparsable:
        notes.append(f"{score.num_unparsable:,} could not be read")
    splits = sorted({split for split in (score.provenance.get("fewshot_splits") or {}).values() if split})
    if score.num_fewshot and splits:
        notes.append(f"{score.num_fewshot} examples of {', '.join(splits)}")
    return "; ".join(notes)


if __name__ == "__main__":
    from harness.__main__ import run_command

    run_command(main)
