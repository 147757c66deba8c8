"""Find out which fine-tuning method to use, at what cost, and how sure the answer is: one runner, one record per run.

The public interface is this module, `harness.stats` and `harness.methods.base.Method`. Other modules may change:

    import harness

    experiments = harness.compose("method=lora,dora", "seed=0,1")   # the settings of the command line
    record = harness.run_experiment(experiments[0])                  # trains and evaluates, unless that is done
    comparison = harness.load("runs/", sweep="lora_rank")            # groups, tests, tables and the answer
    runs = comparison.frame()                                        # one row per run, as a pandas frame

Importing the package loads no library; each function imports the ones that it needs.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

# Python looks into the working folder first under `python -m` and `python -c`: a file of the user's there, such as
# evaluate.py or datasets.py, would be run in place of the library of that name.
if sys.argv[:1] in (["-m"], ["-c"]) and not sys.flags.safe_path and len(sys.path) > 1:
    sys.path.append(sys.path.pop(0))

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas

    from harness.config.experiment import Experiment
    from harness.records.record import RunRecord
    from harness.report.analysis.comparison import Comparison

__version__ = "0.1.0"
__all__ = ["__version__", "compose", "frame", "load", "run_experiment"]


def compose(*overrides: str) -> list[Experiment]:
    """Return the experiments that `harness -m` would run for these settings, in its order.

    >>> [experiment.method.name for experiment in compose("method=lora,dora", "method.r=8")]
    ['lora', 'dora']

    Args:
        overrides: settings as on the command line; commas and `sweep=NAME` give several experiments. The row of the
            untouched base model, which the command adds to a comparison, is `method=base`.

    Raises:
        ValueError: a setting is wrong; names it and what is allowed.
    """
    from harness.config.compose import experiments

    return [experiment for _, experiment in experiments(overrides)]


def run_experiment(experiment: Experiment) -> RunRecord:
    """Train and evaluate one experiment in a separate process, and return its record, however the run ended.

    A finished run is not repeated. The record's `status` is `ok`, `oom`, `diverged`, `failed` or `skipped`, with a
    `reason`. The file is `runs/<recipe_id>/seed-<n>/record.json`, next to the weights and the evaluations.

    >>> record = run_experiment(compose("method=lora", "train=smoke", "eval=smoke")[0])  # doctest: +SKIP
    >>> record.status  # doctest: +SKIP
    'ok'

    Raises:
        ValueError: the experiment does not fit the model, the data or this machine; nothing has been started.
    """
    from harness.sweep.sweep import run_alone

    return run_alone(experiment)


def load(runs: str | Path | Sequence[str | Path], sweep: str | None = None, allow: Sequence[str] = ()) -> Comparison:
    """Return the comparison of the runs below one or several folders: what a report shows, as objects.

    >>> comparison = load("runs/", sweep="lora_rank")  # doctest: +SKIP
    >>> print(*comparison.answer.lines, sep=" ")  # doctest: +SKIP
    >>> comparison.main_table.records()  # doctest: +SKIP
    >>> [(pair.a.label, pair.result.verdict) for pair in comparison.claims[0].against_best]  # doctest: +SKIP
    >>> comparison.frame(items=True)  # doctest: +SKIP

    Args:
        runs: a runs folder, or several.
        sweep: the name of a sweep, for its runs alone.
        allow: keys of the settings that may differ although the sweep did not declare them.

    Raises:
        ValueError: a folder is missing, or it holds no such sweep.
    """
    from harness.report import load as comparison_of

    return comparison_of(runs, sweep, allow)


def frame(runs: str | Path | Sequence[str | Path], sweep: str | None = None, items: bool = False) -> pandas.DataFrame:
    """Return the records below one or several folders as a tidy data frame.

    >>> frame("runs/")[["method", "seed", "arc_easy/acc"]]  # doctest: +SKIP

    Args:
        runs: a runs folder, or several.
        sweep: the name of a sweep, for its runs alone.
        items: one row per run and evaluated item, instead of one row per run.

    Raises:
        ValueError: a folder is missing, or it holds no such sweep.
    """
    from harness.report import frame as frame_of

    return frame_of(runs, sweep, items)
