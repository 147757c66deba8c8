"""Loading of a finished run from its folder, attached or merged, and the folders that commands write from it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import config, permissions
from harness.config.experiment import Experiment
from harness.config.sweep_file import setting_of
from harness.records import files, record
from harness.records.record import RunRecord
from harness.records.settings import ModelSpec
from harness.run import inputs, run_folder
from harness.sources import hub, pickles

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Trained:
    """Run whose weights are on disk, with the base model that they belong to."""

    folder: Path
    record: RunRecord
    experiment: Experiment

    @property
    def weights(self) -> Path:
        """Return the folder of the weights that the method saved."""
        return self.folder / "weights"

    @property
    def name(self) -> str:
        """Return a readable name of the run."""
        return f"{self.record.method} {self.record.recipe_id}/seed-{self.record.seed}"


def find(folder: Path) -> Trained:
    """Return the run in a folder. Needs no torch.

    Raises:
        ValueError: there is no run, no weights, weights in a pickle, or a method that no longer exists.
    """
    try:
        record_of_run = record.read(RunRecord, folder / "record.json")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{folder}: no record.json in it; give a run's folder, runs/<recipe_id>/seed-<n>") from error
    experiment = config.from_record(record_of_run)
    if not experiment.method.trains:
        raise ValueError(f"{folder}: method={record_of_run.method} trains nothing, so that there is nothing to work on")
    if record_of_run.current.weights_from is None or not (folder / "weights").is_dir():
        reason = (
            f"its status is {record_of_run.status} ({record_of_run.current.reason})"
            if record_of_run.status != "ok"
            else "they are gone"
        )
        if record_of_run.config.get("keep") == "none":
            reason = "they were not kept (keep=none)"
        raise ValueError(f"{folder}: it has no weights: {reason}. Run it again with force=true")
    pickles.refuse(folder / "weights", str(folder / "weights"))
    if fault := run_folder.damage(folder, record_of_run.current.weights_from, by_content=True):
        raise ValueError(f"{fault}. Make the run again, with the command that made it")
    return Trained(folder, record_of_run, experiment)


def on_base(run: Trained, overrides: Sequence[str]) -> Trained:
    """Return the run with its base model located: as recorded, or by these overrides of the model group.

    Raises:
        ValueError: the base at that place is not the base that the run was trained on; or the run had a permission
            that the overrides neither give nor deny; names them.
    """
    permissions.insist(run.record.config, overrides, ("model",), str(run.folder), "--base ")
    trained_on = run.experiment.model
    spec = dataclasses.replace(trained_on, content=None)
    if overrides:
        settings = _asked(overrides)
        only_permissions = all(setting_of(word) in permissions.WITHHELD for word in overrides)
        spec = permissions.granted(spec, "model", overrides, settings) if only_permissions else settings
    there = inputs.resolve_model(spec)
    if there.content != trained_on.content:
        raise ValueError(
            f"{run.folder}: trained on model {_named(trained_on)}, and the base given is {_named(there)}: weights "
            "fit the base that they were trained on and no other, tokenizer included. Give that one, with --base "
            "model=... or --base model.source=path model.path=..."
        )
    return dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, model=there))


def _asked(overrides: Sequence[str]) -> ModelSpec:
    from harness.config.compose import experiments

    wrong = [word for word in overrides if not word.startswith(("model=", "model."))]
    if wrong:
        raise ValueError(f"--base {' '.join(wrong)}: only settings of the model group, model=... or model.<name>=...")
    return experiments(overrides)[0][1].model


def _named(spec: ModelSpec) -> str:
    return f"{spec.name} ({spec.content})"


def download(run: Trained) -> None:
    """Download a Hub model's files into the cache, unless they are there.

    Raises:
        ValueError: they are not there, and the Hub cannot be reached.
    """
    spec = run.experiment.model
    if spec.source == "hub":
        assert spec.hub_id is not None and spec.revision is not None, "on_base has resolved it"
        hub.download_model(spec.hub_id, spec.revision, spec.trust_remote_code)


def dtype(run: Trained) -> torch.dtype:
    """Return the dtype of the run's unquantized base weights."""
    loaded_as: torch.dtype = _load_options(run)["dtype"]
    return loaded_as


def quantization(run: Trained) -> str:
    """Return the quantization settings of the base as text; "" if it was not quantized."""
    quantization = _load_options(run).get("quantization_config")
    if quantization is None:
        return ""
    return ", ".join(f"{key}={value}" for key, value in sorted(quantization.to_diff_dict().items()))


def attached(run: Trained) -> Any:
    """Return the model as trained and evaluated: the base quantized as then, with the method's part restored."""
    from harness.sources import models

    base = models.load(run.experiment.model, _load_options(run))
    return run.experiment.method.restore(base, run.weights).eval()


def plain_base(run: Trained) -> Any:
    """Return the base model of the run in plain float32. A quantized base is dequantized first."""
    from harness.sources import models

    return models.plain(models.load(run.experiment.model, _load_options(run)))


def merged(run: Trained) -> Any:
    """Return the merged model in float32, in which merging rounds least.

    Raises:
        ValueError: the method cannot be merged.
    """
    method = run.experiment.method
    return method.merge(method.restore(plain_base(run), run.weights)).eval()


def check_merges(run: Trained) -> None:
    """Refuse a method that cannot be merged, before anything is loaded.

    Raises:
        ValueError: the method cannot be merged; names it.
    """
    if not run.experiment.method.merges:
        raise ValueError(
            f"{run.folder}: method={run.record.method} cannot be merged into the base's weights: what it trains is not "
            "a change of weights. Serve it attached"
        )


def _load_options(run: Trained) -> dict[str, Any]:
    from harness.train.loop import compute_dtype

    return run.experiment.method.load_options(compute_dtype(run.experiment.train.precision))


PROMPTS = (
    "The capital of France is",
    "Question: Which gas do plants take in?\nAnswer:",
    "def add(a, b):\n    return",
    "In 1969, 12 people counted 3,408 stars; 7 x 8 =",
)


def check_free(out: Path) -> None:
    """Refuse to overwrite an existing file or a folder that is not empty.

    Raises:
        ValueError: there is one at `out`.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise ValueError(f"{out}: is there already and not empty; nothing is overwritten, give another folder")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` if the block ends without an error."""
    temporary = files.temporary_folder(out.parent, f".{out.name}-")
    try:
        yield temporary
        files.open_as_folder(temporary)
        check_free(out)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def logits(model: Any, tokenizer: Any) -> list[torch.Tensor]:
    """Return float32 logits of shape (tokens, vocabulary) for each fixed prompt, computed in the base's dtype.

    Modules that were trained whole are in float32 beside a base in 16 bits, which takes autocast, as in training.
    """
    import torch

    outputs = []
    narrow = next((p.dtype for p in model.parameters() if p.dtype in (torch.bfloat16, torch.float16)), None)
    with torch.inference_mode(), torch.autocast(model.device.type, narrow, enabled=narrow is not None):
        for prompt in PROMPTS:
            ids_1T = torch.tensor([tokenizer(prompt)["input_ids"]], device=model.device)
            outputs.append(model(input_ids=ids_1T).logits[0].float().cpu())
    return outputs


def compare(before: list[torch.Tensor], after: list[torch.Tensor]) -> dict[str, Any]:
    """Return the largest difference of two lists of logits, the largest logit, and how many top tokens differ."""
    pairs = list(zip(before, after, strict=True))
    return {
        "largest_difference": max(float((a - b).abs().max()) for a, b in pairs),
        "largest_logit": max(float(a.abs().max()) for a, _ in pairs),
        "positions": sum(len(a) for a, _ in pairs),
        "positions_with_another_first_token": sum(int((a.argmax(-1) != b.argmax(-1)).sum()) for a, b in pairs),
    }
