"""`python -m harness.plan`: parameters, memory and operations of runs before they start.

With `targets` it lists the linear layers of a model, with `literature` published figures beside the predictions.

Exit codes: 0 planned; 2 the input was wrong, and one line names the fault; 1 any other error.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.plan import cost, literature, table
from harness.plan.devices import Device, named
from harness.records.help_text import HelpFormatter
from harness.records.untrusted import echo

_MFU = 0.4
_OWN = {  # words of this command, and what they may be
    "device": "a device",
    "mfu": "a share of the device's peak, above 0 and at most 1",
    "rows": "a number of rows above 0",
    "price": "what a device hour costs, above 0",
}
_ABOUT = """Predict parameters, memory and time without weights or a GPU. Takes the settings of `python -m harness`:

  python -m harness.plan method=lora,qlora,dora model=llama-3.1-8b train.micro_batch_size=1 train.max_length=2048
  python -m harness.plan method=full,lora model=llama-3.2-1b device=rtx-4090
  python -m harness.plan targets model=gpt2        the linear layers of a model, and the presets that cover them
  python -m harness.plan literature                published figures beside the predictions, as Markdown

Memory and FLOPs are those of one optimizer step of the training loop on fake tensors, which have shapes but no data.
Every row is train.max_length tokens long, with a label at each token.

  device=h200 | rtx-4090 | 24GiB | cpu   adds fit, largest micro batch and seconds per step; usable memory is 95 % of
                                         the device, minus 0.5 GiB for the CUDA context on a GPU
  mfu=0.4                                model FLOPs utilization assumed for the seconds per step
  rows=395000                            number of training rows; adds steps and hours
  price=2.5                              price of a device hour; adds the price of training (without evaluation)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = _parser().parse_args(arguments)
    words = list(given.override)
    listing = words[:1] == ["targets"]
    try:
        if words == ["literature"]:
            if given.json or given.counts:
                raise ValueError("literature: the page is Markdown alone; leave out --json and --counts")
            echo(_literature().removesuffix("\n"))
            return 0
        rows = _layers(words[1:]) if listing else _cells(words, given.counts)
    except ValueError as error:
        echo(f"harness.plan: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        echo(f"harness.plan: {error}", file=sys.stderr)
        return 1
    if given.json:
        echo(json.dumps(rows, indent=1))
    else:
        table.print_layers(rows) if listing else table.print_cells(rows)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="harness plan", description=_ABOUT, formatter_class=HelpFormatter)
    parser.add_argument(
        "override", nargs="*", metavar="SETTING=VALUE", help="a setting of `python -m harness`; commas sweep"
    )
    parser.add_argument("--counts", action="store_true", help="count parameters only (faster)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _cells(words: list[str], only_counts: bool) -> list[dict[str, Any]]:
    from harness.config.compose import experiments

    device, mfu, basis, settings = _asked(words)
    composed = experiments(settings)
    experiment_list = [experiment for _, experiment in composed]
    counts = _elsewhere("harness.plan.count:cells", experiment_list)
    trains = [i for i, count in enumerate(counts) if not (only_counts or count["unsupported"])]
    plans = dict(zip(trains, _plans([experiment_list[i] for i in trains], device, mfu), strict=True))
    return [
        {"cell": " ".join(cell), **count, "plan": plans.get(i), **cost.of_plan(plans.get(i), experiment, basis)}
        for i, ((cell, experiment), count) in enumerate(zip(composed, counts, strict=True))
    ]


def _plans(experiments: list[Any], device: Device | None, mfu: float) -> list[Any]:
    planned = [experiment for experiment in experiments if experiment.method.trains]
    predictions = iter(_elsewhere("harness.plan.predict:cells", planned, device, mfu) if planned else ())
    return [next(predictions) if experiment.method.trains else None for experiment in experiments]


def _asked(words: list[str]) -> tuple[Device | None, float, cost.Basis, list[str]]:
    """Return the device, the share of its peak, the basis of the hours, and the settings of the run.

    Raises:
        ValueError: `mfu` is not a share, `rows` or `price` no number above zero, or `device` is not known.
    """
    own = {key: value for key, _, value in (word.partition("=") for word in words) if key in _OWN}
    settings = [word for word in words if word.partition("=")[0] not in own]
    mfu = _number(own, "mfu") or _MFU
    if mfu > 1:
        raise ValueError(f"mfu={own['mfu']}: give a share of the device's peak, above 0 and at most 1")
    rows, price = _number(own, "rows"), _number(own, "price")
    device = named(own["device"]) if "device" in own else None
    return device, mfu, cost.Basis(None if rows is None else int(rows), price), settings


def _number(own: dict[str, str], key: str) -> float | None:
    """Return the number of a word; None without it.

    Raises:
        ValueError: it is no number above zero.
    """
    if key not in own:
        return None
    try:
        value = float(own[key])
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{key}={own[key]}: give {_OWN[key]}")
    return value


def _literature() -> str:
    from harness.config.compose import experiments

    cells = literature.cells()
    experiment_list = [experiment for cell in cells for _, experiment in experiments(cell)]
    return literature.page(dict(zip(cells, _plans(experiment_list, None, _MFU), strict=True)))


def _layers(words: list[str]) -> Any:
    from harness.config.compose import experiments

    specs = {experiment.model.name: experiment.model for _, experiment in experiments(words)}
    return _elsewhere("harness.plan.count:layers", list(specs.values()))


def _elsewhere(function: str, *arguments: Any) -> Any:
    """Call a function in a process that has the libraries and sees no GPU, since fake tensors claim to be on the CPU.

    Raises:
        ValueError: the input is wrong.
        RuntimeError: anything else.
    """
    from harness.run import isolate

    with tempfile.TemporaryDirectory() as folder:
        ended = isolate.call(function, *arguments, log=Path(folder) / "log.txt", terms=isolate.WITHOUT_GPU)
    return ended.returned()


if __name__ == "__main__":
    from harness.__main__ import run_command

    run_command(main)
