"""Tables of plans for a terminal. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.records.untrusted import echo

_GIB = 2**30
_SIZES = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes", "peak_bytes")


def print_cells(cells: list[dict[str, Any]]) -> None:
    """Print the parameters of every cell, and the cost of its steps if it was planned."""
    plans = [row["plan"] for row in cells if row["plan"]]
    header = ["Cell", "Trained", "Total", "Share, %"]
    header += ["Weights", "Gradients", "Optimizer", "Activations", "Peak, GiB", "TFLOP/step"] if plans else ["Modules"]
    with_device = any(plan["device"] for plan in plans)
    header += ["Fits", "Largest batch", "s/step"] if with_device else []
    costs = [name for name in ("steps", "hours", "price") if with_device and any(cell[name] for cell in cells)]
    header += [name.capitalize() for name in costs]
    names = _names(cells)
    lines = [(*_line(cell, bool(plans), with_device), *(_amount(cell[name]) for name in costs)) for cell in cells]
    _print_table(header, [(name, *line) for name, line in zip(names, lines, strict=True)])
    left_out = [f"{n}: {text}" for n, row in zip(names, cells, strict=True) if (text := _left_out(row))]
    for text in dict.fromkeys([*_shared(cells), *(_said(p) for p in plans if not p["unpredicted"]), *left_out]):
        echo(text)


def _amount(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"


def _words_of_all(cells: list[dict[str, Any]]) -> list[str]:
    """Return the settings that several cells share; [] for a single cell."""
    first = cells[0]["cell"].split()
    return [word for word in first if all(word in row["cell"].split() for row in cells)] if len(cells) > 1 else []


def _names(cells: list[dict[str, Any]]) -> list[str]:
    """Return a name for each cell, made of the settings that the cells do not share."""
    common = _words_of_all(cells)
    own = [" ".join(word for word in row["cell"].split() if word not in common) for row in cells]
    return [name or f"method={row['method']} model={row['model']}" for name, row in zip(own, cells, strict=True)]


def _shared(cells: list[dict[str, Any]]) -> list[str]:
    common = _words_of_all(cells)
    return [f"All with {' '.join(common)}."] if common else []


def _line(cell: dict[str, Any], planned: bool, with_device: bool) -> tuple[str, ...]:
    width = 3 + (6 if planned else 1) + (3 if with_device else 0)
    if cell["unsupported"]:
        return ("-", f"{cell['base_parameters']:,}", *["-"] * (width - 2))
    counts = (f"{cell['trainable_parameters']:,}", f"{cell['total_parameters']:,}", f"{cell['trainable_percent']:.3g}")
    if not planned:
        return (*counts, str(cell["adapted_modules"]))
    plan = cell["plan"]
    if plan is None or plan["unpredicted"]:
        return (*counts, *["-"] * (width - 3))
    sizes = [f"{plan[key] / _GIB:.2f}" for key in _SIZES]
    step = f"{plan['flops'] / 1e12:.3g}"
    if not with_device:
        return (*counts, *sizes, step)
    seconds = "-" if plan["step_seconds"] is None else f"{plan['step_seconds']:.3g}"
    return (*counts, *sizes, step, "yes" if plan["fits"] else "no", str(plan["largest_micro_batch"]), seconds)


def _said(plan: dict[str, Any]) -> str:
    """Return the assumptions of the numbers as a sentence."""
    where = plan["device"] or "a GPU"
    text = (
        f"One step on {where} in {plan['precision']}: micro batches of {plan['micro_batch_size']}, "
        f"rows of {plan['max_length']:,} tokens, each with a label; sizes in GiB."
    )
    if plan.get("step_seconds") is not None:
        text += f" Seconds at an MFU of {plan['mfu']:g}."
    if plan.get("usable_bytes") is not None:
        text += f" {plan['usable_bytes'] / _GIB:.1f} GiB are counted as usable."
    return text


def _left_out(cell: dict[str, Any]) -> str:
    plan = cell["plan"]
    if cell["unsupported"]:
        return f"nothing to train: {cell['unsupported']}"
    if plan and plan["unpredicted"]:
        return f"not predicted: its code needs values, which fake tensors have not ({plan['unpredicted']})"
    return f"not in the prediction: {plan['not_modeled']}" if plan and plan["not_modeled"] else ""


def print_layers(models: list[dict[str, Any]]) -> None:
    """Print every linear layer of each model."""
    for model in models:
        echo(f"{model['model']}: linear layers as d_in x d_out, and the targets that cover them")
        _print_table(("Layer", "Shape", "Count", "Targets"), [_layer_line(row) for row in model["layers"]])


def _layer_line(row: dict[str, Any]) -> tuple[str, ...]:
    factor = f"{row['experts']} x " if row["experts"] else ""
    shape = " or ".join(f"{factor}{shape_entry['d_in']} x {shape_entry['d_out']}" for shape_entry in row["shapes"])
    head = "(output head, tied to the embeddings)" if row["tied"] else "(output head)" if row["output_head"] else "-"
    return (row["pattern"], shape, str(row["count"]), " ".join(row["presets"]) or head)


def _print_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as their widest cell. Text in the first and the last column is left-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    for line in (header, *lines):
        cells = [c.ljust(w) if not c[:1].isdigit() and i in (0, len(line) - 1) else c.rjust(w)
                 for i, (c, w) in enumerate(zip(line, widths, strict=True))]  # fmt: skip
        echo("  ".join(cells).rstrip())
