"""Zip files of records: written with the same bytes every time, and read as data from a stranger.

Only members of known names are read, so that an archive holds neither a pickle nor a path that leaves its folder.
Links, encrypted members and more than a gibibyte of content are refused before anything is written to the disk.
"""

import io
import json
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.records import disk
from harness.records.record import write_bytes
from harness.records.untrusted import shortened
from harness.report.archive import METADATA, OPTIONS, VERSIONS

MOST_FILES, MOST_BYTES, MOST_FILE_BYTES = 100_000, 2**30, 2**27
MOST_ITEMS = 5_000_000  # rows of a table of items: a few bytes of Parquet can stand for more than fit in memory
_NAME = r"[^\W_][\w.+-]{0,119}"
_RUNS = r"runs(?:-[1-9]\d?)?"
_RUN = rf"{_RUNS}/{_NAME}/seed-\d{{1,12}}"
_ALLOWED = re.compile(
    "|".join(
        (
            "|".join(map(re.escape, (METADATA, OPTIONS, VERSIONS))),
            rf"{_RUNS}/sweeps/{_NAME}/(?:sweep|registration)\.json",
            rf"{_RUN}/(?:record|update|converted|inference)\.json",
            rf"{_RUN}/{re.escape(disk.NAME)}",
            rf"{_RUN}/{disk.EVALUATIONS}/{_NAME}\.(?:json|parquet)",
            rf"{_RUN}/earlier/\d{{1,9}}/{_NAME}\.json",
            rf"{_RUNS}/(?:data|external)/{_NAME}\.json",
        )
    )
)
_STAMP = (1980, 1, 1, 0, 0, 0)  # the earliest time of a zip file; no member has one of its own
_MODE = (stat.S_IFREG | 0o644) << 16
_UNIX = 3
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PARQUET = b"PAR1"

Members = Mapping[str, bytes]


class RefusedError(ValueError):
    """Archive that is not one of `harness report pack`, or that could do harm."""


def allowed(name: str) -> bool:
    """Return whether a member of this name belongs in an archive."""
    return bool(_ALLOWED.fullmatch(name))


def write(members: Members, path: Path) -> Path:
    """Write an archive: members in the order of their names, without times and owners."""
    text = io.BytesIO()
    with zipfile.ZipFile(text, "w") as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, _STAMP)
            entry.external_attr, entry.create_system = _MODE, _UNIX
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, members[name], compresslevel=9)
    return write_bytes(text.getvalue(), path)


def read(path: Path) -> dict[str, bytes]:
    """Return the content of every member by its name.

    Raises:
        RefusedError: it is no zip file, a member is not allowed in it, or it is too large; names the member.
        FileNotFoundError: there is no such file.
        ValueError: something else than a file stands there, or it cannot be read.
    """
    with disk.opened(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                _check_entries(path, archive.infolist())
                return dict(_contents(path, archive))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OverflowError) as error:
            raise RefusedError(f"{path}: not a zip file that can be read: {shortened(str(error))}") from error


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Check names, kinds and stated sizes.

    Raises:
        RefusedError: names the first member that is wrong.
    """
    if len(entries) > MOST_FILES:
        raise RefusedError(f"{path}: {len(entries):,} members; at most {MOST_FILES:,} are read")
    names: set[str] = set()
    for entry in entries:
        if reason := _reason(entry, names):
            raise RefusedError(f"{path}: member {shortened(entry.orig_filename)!r}: {reason}")
        names.add(entry.filename.casefold())
    if (total := sum(entry.file_size for entry in entries)) > MOST_BYTES:
        raise RefusedError(f"{path}: {total:,} bytes unpacked; at most {MOST_BYTES:,} are read")


def _reason(entry: zipfile.ZipInfo, names: set[str]) -> str:
    """Return why a member is refused; "" where it is not."""
    mode = entry.external_attr >> 16
    if not allowed(entry.filename) or entry.orig_filename != entry.filename:
        return "no name of an archive of records; `harness report pack` writes no such file"
    if entry.filename.casefold() in names:
        return "there twice"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "a link or a device, no file"
    if entry.flag_bits & 1 or entry.compress_type not in _PLAIN:
        return "encrypted, or packed in a way that is not read"
    if entry.file_size > MOST_FILE_BYTES:
        return f"{entry.file_size:,} bytes unpacked; at most {MOST_FILE_BYTES:,} are read"
    return ""


def _contents(path: Path, archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    """Yield each member with its content, of which no more is unpacked than the archive states.

    Raises:
        RefusedError: a member is not what its name says.
    """
    for entry in archive.infolist():
        with archive.open(entry) as member:
            content = member.read(entry.file_size + 1)
        if len(content) != entry.file_size:
            raise RefusedError(f"{path}: member {entry.filename}: not of the size that the archive states")
        check_kind(f"{path}: member {entry.filename}", entry.filename, content)
        yield entry.filename, content


def check_kind(place: str, name: str, content: bytes) -> None:
    """Check that a file is JSON, text or Parquet, as its name says.

    Args:
        place: the file as the error names it.
        name: its name, of which the suffix counts.
        content: its bytes.

    Raises:
        RefusedError: it is something else, or a table of items with too many rows.
    """
    if name.endswith(".parquet"):
        _check_table(place, content)
        return
    try:
        text = content.decode()
        value = json.loads(text) if name.endswith(".json") else {}
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"{place}: damaged, no {name.rpartition('.')[2]} ({shortened(str(error))})") from error
    if not isinstance(value, dict):
        raise RefusedError(f"{place}: damaged, no record")


def _check_table(place: str, content: bytes) -> None:
    from pyarrow import ArrowInvalid, BufferReader, parquet

    if not (content.startswith(_PARQUET) and content.endswith(_PARQUET)):
        raise RefusedError(f"{place}: damaged, no Parquet file")
    try:
        facts = parquet.ParquetFile(BufferReader(content)).metadata
    except (ArrowInvalid, OSError) as error:
        raise RefusedError(f"{place}: damaged, no Parquet file ({shortened(str(error))})") from error
    size = sum(facts.row_group(index).total_byte_size for index in range(facts.num_row_groups))
    if facts.num_rows > MOST_ITEMS or size > MOST_BYTES:
        raise RefusedError(f"{place}: {facts.num_rows:,} items of {size:,} bytes; at most {MOST_ITEMS:,} are read")


def unpack(members: Members, folder: Path) -> list[Path]:
    """Write the members below a new folder, and return its runs folders in their order."""
    for name, content in members.items():
        assert allowed(name), "only what was checked is unpacked"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    roots = sorted({name.partition("/")[0] for name in members if "/" in name}, key=lambda root: (len(root), root))
    return [folder / root for root in roots]
