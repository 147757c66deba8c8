"""How much of a small update an evaluation in bfloat16 loses, by method and training steps, on SmolLM2-135M.

A step is of 4 rows at the method's published rate, trained in bf16. The gain is the untouched model's answer loss less
the trained one's, both in float32, on 16 held-out science questions; a part that is lost is held against it. A base in
bf16 gives outputs of 8 significant bits: an adapter's output below half a unit in their last place is rounded away when
it is added. "Sums in float32" leaves the products in bf16 and rounds no layer's output after it was added to. The same
happens where an update is merged into weights of bf16, or weights of full fine-tuning are rounded to it.
`HARNESS_BENCH=quick` takes LoRA after 3 steps, `HARNESS_BENCH_METHODS=lora,dora` those methods.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import Row

METHODS = ("lora", "dora", "vera", "full")
STEPS = (3, 10)
NUM_ROWS, NUM_ITEMS = 16, 16
REMAINS = 1e-4  # nats: what is left between two ways to compute the same function in float32


def rows() -> list[Row]:
    """Rows for each method and number of steps, each in a process of its own."""
    quick = os.environ.get("HARNESS_BENCH") == "quick"
    methods = "lora" if quick else os.environ.get("HARNESS_BENCH_METHODS", ",".join(METHODS))
    return [row for method in methods.split(",") for steps in ((3,) if quick else STEPS) for row in _row(method, steps)]


def _row(method: str, steps: int) -> list[Row]:
    from harness.run import isolate

    log = Path(os.environ.get("TMPDIR", "/tmp")) / "harness-bench-precision.log"
    ended = isolate.call("tests.bench.precision:measured", method, steps, log=log)
    if ended.kind != "returned":
        raise RuntimeError(f"{ended.reason}; see {log}")
    return _rows(f"{method}, {steps} step{'s' if steps > 1 else ''}", ended.value)


def _rows(name: str, nats: dict[str, float]) -> list[Row]:
    gain = nats["base"] - nats["fp32"]
    lost = {key: 100 * (nats[key] - nats["fp32"]) / gain for key in ("bf16", "sums", "rounded")}
    told = (
        f"{nats['base']:.4f} -> {nats['fp32']:.4f} nats in fp32, {nats['base bf16']:.4f} -> {nats['bf16']:.4f} in "
        f"bf16; update {100 * nats['size']:.3g} % of the weights (norm)"
    )
    items = f"{nats['items']:.0f} of {NUM_ITEMS} ARC-Easy items answered otherwise"
    part = partial(Row, bar=None, unit="% of the gain")
    found = [
        part(name=f"{name}: lost by evaluating in bf16", measured=lost["bf16"], note=f"{told}; {items}"),
        part(name=f"{name}: lost with sums in float32", measured=lost["sums"], note="products in bf16"),
        part(
            name=f"{name}: lost by weights in bf16", measured=lost["rounded"], note="merged or held; evaluated in fp32"
        ),
    ]
    if "merged" in nats:
        left = abs(nats["merged"] - nats["fp32"])
        found.append(Row(name=f"{name}: attached against merged in float32", measured=left, bar=REMAINS, unit="nats"))
    return found


def measured(method: str, steps: int, emit: Any) -> dict[str, float]:
    """Losses of one trained model, computed in each way."""
    import torch

    from tests.bench._evaluated import loaded, loss

    work = loaded(f"method={method}", f"train.max_steps={steps}")
    before = {name: tensor.detach().clone() for name, tensor in _weights(work.model).items()}
    held_out = work.heldout["test"][:NUM_ROWS]
    found = {"base": loss(work.model, held_out, "fp32"), "base bf16": loss(work.model, held_out, "bf16")}
    work.fit()
    found |= {precision: loss(work.model, held_out, precision) for precision in ("fp32", "bf16")}
    with _outputs_in_float32(work.model):
        found["sums"] = loss(work.model, held_out, "bf16")
    found["items"] = _items_that_differ(work)
    plain = copy.deepcopy(work.model).float()
    if work.experiment.method.name != "full":
        plain = work.experiment.method.merge(plain)
        found["merged"] = loss(plain, held_out, "fp32")
    after = _weights(plain)
    moved = sum(float((after[name] - tensor).square().sum()) for name, tensor in before.items())
    found["size"] = (moved / sum(float(tensor.square().sum()) for tensor in before.values())) ** 0.5
    found["rounded"] = loss(plain.to(torch.bfloat16), held_out, "fp32")
    return found


def _weights(model: Any) -> dict[str, Any]:
    """Matrices of the base by their names without an adapter's prefixes."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): tensor.float()
        for name, tensor in model.named_parameters()
        if tensor.dim() == 2 and "_proj.weight" in name.replace(".base_layer", "")
    }


@contextlib.contextmanager
def _outputs_in_float32(model: Any) -> Iterator[None]:
    import torch

    kinds = (torch.nn.Linear, torch.nn.Embedding)
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    hooks = [layer.register_forward_hook(lambda layer, inputs, output: output.float()) for layer in layers]
    yield
    for hook in hooks:
        hook.remove()


def _items_that_differ(work: Any) -> float:
    """Items of ARC-Easy whose highest log-likelihood is another answer's in bf16."""
    from harness.config.experiment import Evaluation
    from harness.evaluate import tasks

    task = tasks.load("arc_easy", "package", None)
    chosen = []
    for precision in ("fp32", "bf16"):
        look = Evaluation(
            kind="lm_eval", task="arc_easy", role="target", rows="package", limit=NUM_ITEMS, num_fewshot=None,
            chat_template=False, precision=precision, batch_size=16, batch_tokens=2048,
        )  # fmt: skip
        _, columns, _ = tasks.score(work.model, work.tokenizer, task, look, lambda done, total: None)
        chosen.append([max(range(len(item)), key=item.__getitem__) for item in columns["loglikelihoods"]])
    return float(sum(a != b for a, b in zip(*chosen, strict=True)))
