"""`python -m harness.plan`: what each cell would train; `python -m harness.plan targets`: what a model offers to adapt.

Exit codes: 0 counted; 2 the input was wrong, with one line that says what; 1 something else went wrong.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = _parser().parse_args(arguments)
    words = list(given.override)
    listing = words[:1] == ["targets"]
    try:
        counted = _layers(words[1:]) if listing else _cells(words)
    except ValueError as error:
        print(f"harness.plan: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"harness.plan: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(counted, indent=1))
    else:
        _print_layers(counted) if listing else _print_cells(counted)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.plan",
        description="Count what runs would train, without weights. The settings are those of `python -m harness`: "
        "method=lora,dora model=llama-3.1-8b. With `targets` first, list the linear layers of a model.",
    )
    parser.add_argument("override", nargs="*", metavar="SETTING=VALUE", help="as for `python -m harness`; commas sweep")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _cells(words: list[str]) -> list[dict[str, Any]]:
    from harness.compose import experiments

    composed = experiments(words)
    counts = _elsewhere("harness.plan.count:cells", [experiment for _, experiment in composed])
    return [{"cell": " ".join(cell), **count} for (cell, _), count in zip(composed, counts, strict=True)]


def _layers(words: list[str]) -> Any:
    from harness.compose import experiments

    specs = {experiment.model.name: experiment.model for _, experiment in experiments(words)}
    return _elsewhere("harness.plan.count:layers", list(specs.values()))


def _elsewhere(function: str, argument: Any) -> Any:
    """Call a function that imports the stack in a process that has it, with what the libraries say kept in a file.

    Raises:
        ValueError: the input is wrong.
        RuntimeError: anything else.
    """
    from harness import isolate

    with tempfile.TemporaryDirectory() as folder:
        ended = isolate.call(function, argument, log=Path(folder) / "log.txt")
    if ended.kind == "returned":
        return ended.value
    raise (ValueError if ended.error_type == "ValueError" else RuntimeError)(ended.reason)


def _print_cells(counts: list[dict[str, Any]]) -> None:
    header = ("Cell", "Trained", "Expected", "Total", "Share, %", "Modules")
    lines = [_cell_line(count) for count in counts]
    _print_table(header, lines)
    for count in counts:
        if count["unsupported"]:
            print(f"{count['cell'] or count['method']}: nothing to train: {count['unsupported']}")


def _cell_line(count: dict[str, Any]) -> tuple[str, ...]:
    name = count["cell"] or f"method={count['method']} model={count['model']}"
    if count["unsupported"]:
        return (name, "-", "-", f"{count['base_parameters']:,}", "-", "-")
    shown = ("trainable_parameters", "expected_trainable_parameters", "total_parameters")
    return (
        name,
        *(f"{count[key]:,}" for key in shown),
        f"{count['trainable_percent']:.3g}",
        str(count["adapted_modules"]),
    )


def _print_layers(models: list[dict[str, Any]]) -> None:
    for model in models:
        print(f"{model['model']}: linear layers as d_in x d_out, and the targets that cover them")
        _print_table(("Layer", "Shape", "Count", "Targets"), [_layer_line(row) for row in model["layers"]])


def _layer_line(row: dict[str, Any]) -> tuple[str, ...]:
    each = f"{row['experts']} x " if row["experts"] else ""
    shape = " or ".join(f"{each}{one['d_in']} x {one['d_out']}" for one in row["shapes"])
    head = "(output head, tied to the embeddings)" if row["tied"] else "(output head)" if row["output_head"] else "-"
    return (row["pattern"], shape, str(row["count"]), " ".join(row["presets"]) or head)


def _print_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, the first and the last to the left."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    for line in (header, *lines):
        cells = [c.ljust(w) if not c[:1].isdigit() and i in (0, len(line) - 1) else c.rjust(w)
                 for i, (c, w) in enumerate(zip(line, widths, strict=True))]  # fmt: skip
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    sys.exit(main())
