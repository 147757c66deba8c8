"""Refusal of weights in pickles: reading a pickle runs whatever code its author put into it."""

from collections.abc import Iterable
from pathlib import Path

_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_OF_A_TRAINER = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")  # pickles that hold no weights
_ADAPTER = "adapter_model"  # PEFT reads this pickle whenever its safetensors file is missing


def refuse(folder: Path, named: str) -> None:
    """Refuse a folder whose weights are a pickle, by the names of its files; opens none.

    A pickle beside safetensors weights is accepted, since it is never read. An adapter's pickle is refused unless its
    own safetensors file is there.

    Args:
        folder: weights of a model or an adapter.
        named: what a person calls the folder, as `model.path=...`.

    Raises:
        ValueError: its weights are a pickle; names the file and says what to do.
    """
    refuse_among([path.name for path in folder.glob("*") if path.is_file()], named)


def refuse_among(names: Iterable[str], named: str) -> None:
    """Refuse weights in a pickle, as `refuse` does, by the names of the files of one folder.

    Raises:
        ValueError: as `refuse`.
    """
    files = sorted(map(Path, names))
    safe = {path.stem for path in files if path.suffix == ".safetensors"}
    pickled = [path for path in files if path.suffix in _SUFFIXES and path.stem not in _OF_A_TRAINER]
    bad = [path.name for path in pickled if not safe or (path.stem == _ADAPTER and _ADAPTER not in safe)]
    if bad:
        raise ValueError(
            f"{named}: its weights are a pickle, {bad[0]}, and reading a pickle runs whatever its maker put into it: "
            "only *.safetensors is read. Take a copy in that format, or, if you trust where it comes from, load it in "
            "a program of your own and `save_pretrained` it into a new folder"
        )
