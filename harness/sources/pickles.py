"""Weights that lie in a pickle are refused: reading one runs whatever its maker put into it."""

from collections.abc import Iterable
from pathlib import Path

_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_OF_A_TRAINER = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")  # beside weights, and none of them
_ADAPTER = "adapter_model"  # PEFT reads its pickle where its safetensors file is missing, whatever else lies there


def refuse(folder: Path, named: str) -> None:
    """Look at the names of a folder's files, and open none.

    What lies beside safetensors weights is never read and does no harm.

    Args:
        folder: weights of a model or an adapter.
        named: what a person calls the folder, as `model.path=...`.

    Raises:
        ValueError: its weights are a pickle; names the file and says what to do.
    """
    refuse_among([path.name for path in folder.glob("*") if path.is_file()], named)


def refuse_among(names: Iterable[str], named: str) -> None:
    """`refuse` by the names of the files beside each other, wherever they lie.

    Raises:
        ValueError: as `refuse`.
    """
    files = sorted(map(Path, names))
    safe = {path.stem for path in files if path.suffix == ".safetensors"}
    pickled = [path for path in files if path.suffix in _SUFFIXES and path.stem not in _OF_A_TRAINER]
    found = [path.name for path in pickled if not safe or (path.stem == _ADAPTER and _ADAPTER not in safe)]
    if found:
        raise ValueError(
            f"{named}: its weights are a pickle, {found[0]}, and reading a pickle runs whatever its maker put into it: "
            "only *.safetensors is read. Take a copy in that format, or, if you trust where it comes from, load it in "
            "a program of your own and `save_pretrained` it into a new folder"
        )
