"""Local files, row by row: JSON Lines, JSON, CSV, Parquet and Arrow, and folders of them. Only JSON is read whole.

A row that cannot be read is yielded as a `RowError`, so that the caller decides whether reading ends there.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from harness.data import layout
from harness.records import base

Row = dict[str, Any]
Kind = Literal["malformed", "not_utf8", "empty"]
_BOM = b"\xef\xbb\xbf"
_LONGEST_FIELD = 2**31 - 1


class RowError(ValueError):
    """Fault of a row that cannot be used: its kind, the row's place and what to do."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind


Found = tuple[int, Row | RowError]  # the number of a row, from 1: a line where the file has lines


class Number(float):
    """A number with its text, since the text is what is trained: 2.50 is not 2.5."""

    def __new__(cls, text: str) -> "Number":
        """Return the number that the text writes."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    def __str__(self) -> str:
        return self.text


def stream(path: Path, split: str | None = None) -> Iterator[Found]:
    """Yield the rows of a file or folder in their order, with a `RowError` in place of each row that cannot be read.

    Raises:
        ValueError: no such file, none that can be read, no row in it, or a folder of several splits and none named.
    """
    try:
        yield from _rows(path, split)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error


def _rows(path: Path, split: str | None) -> Iterator[Found]:
    if not path.exists():
        raise ValueError(f"{path}: no such file, looked for from {Path.cwd()}; give the path of a JSON Lines file")
    empty = True
    for file in parts(path, split):
        for entry in _reader(file)(file):
            empty = False
            yield entry
    if empty:
        raise ValueError(
            f'{path}: the file is empty of rows; .jsonl has one JSON object per line, as in {{"prompt": "..."}}'
        )


def parts(path: Path, split: str | None = None) -> list[Path]:
    """Return the file itself, or the files of a folder that hold the rows of one split.

    Raises:
        ValueError: a file of a kind that is not read, or as `layout.files_of`.
    """
    if path.is_file():
        _reader(path)
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path}: neither a file nor a folder; give the path of a JSON Lines file")
    return layout.files_of(path, split, READERS)


def _reader(file: Path) -> Callable[[Path], Iterator[Found]]:
    reader = READERS.get(layout.suffix(file))
    if reader is None:
        raise ValueError(f"{file}: rows are read from {', '.join(READERS)} files, not from {file.suffix or 'this'}")
    return reader


def json_lines(path: Path) -> Iterator[Found]:
    """Yield the objects of a JSON Lines file, or its .gz, so that row n is line n."""
    with _opened(path) as file:
        blank: list[int] = []
        try:
            for number, line in enumerate(file, start=1):
                content = line.removeprefix(_BOM) if number == 1 else line
                if not content.strip():
                    blank.append(number)  # at the end of a file they are nothing
                    continue
                for passed in blank:
                    yield passed, RowError("empty", f"{path}:{passed}: not JSON (the line is empty); take it out")
                blank = []
                yield number, _object(content.rstrip(b"\r\n"), f"{path}:{number}")
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: a damaged gzip file ({error}); make it again") from error


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _object(line: bytes, where: str) -> Row | RowError:
    try:
        row = _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return RowError("not_utf8", f"{where}: not UTF-8 (byte {error.start + 1} of the line); save it as UTF-8")
    except (ValueError, RecursionError) as error:
        return RowError("malformed", f"{where}: not JSON ({error}); it needs one JSON object per line")
    return _checked_object(row, where, has_surrogates=b"\\ud" in line or b"\\uD" in line)


def _checked_object(row: Any, where: str, has_surrogates: bool) -> Row | RowError:
    if has_surrogates:  # an unpaired surrogate escape is valid JSON and still no text
        try:
            json.dumps(row, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return RowError("not_utf8", f"{where}: an unpaired surrogate escape is not text; correct it")
    if isinstance(row, dict):
        return row
    kind = type(row).__name__
    return RowError("malformed", f'{where}: a JSON object is needed, as in {{"prompt": "..."}}, this is a {kind}')


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _object_of(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return row


def _integer(text: str) -> int | Number:
    return Number(text) if text == "-0" else int(text)


_DECODER = json.JSONDecoder(
    parse_constant=_no_constant, parse_float=Number, parse_int=_integer, object_pairs_hook=_object_of
)


def json_array(path: Path) -> Iterator[Found]:
    """Yield the objects of a JSON file that is one array, numbered by the lines on which they begin.

    The text is held whole, its objects one at a time.
    """
    content = path.read_bytes().removeprefix(_BOM)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from error
    place, line = _skip(text, 0), 1
    if not text.startswith("[", place):
        raise ValueError(f"{path}:1: a .json file must be one array of objects; name it .jsonl if each line is one")
    seen, place = 0, _skip(text, place + 1)
    while not text.startswith("]", place):
        line, seen = line + text.count("\n", seen, place), place
        where, begin = f"{path}:{line}", place
        try:
            row, place = _DECODER.raw_decode(text, place)
            place = _skip(text, place)
            if not text.startswith((",", "]"), place):
                raise ValueError("a comma or ] is missing after this object")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON ({error}); correct the file from here on") from error
        has_surrogates = text.find("\\ud", begin, place) >= 0 or text.find("\\uD", begin, place) >= 0
        yield line, _checked_object(row, where, has_surrogates)
        if text.startswith(",", place):
            place = _skip(text, place + 1)
    end = _skip(text, place + 1)
    if end < len(text):
        line += text.count("\n", seen, end)
        raise ValueError(f"{path}:{line}: text stands behind the array; a .json file must be one array of objects")


def _skip(text: str, place: int) -> int:
    """Return the next place that is no white space."""
    while text[place : place + 1] in (" ", "\t", "\n", "\r") and place < len(text):
        place += 1
    return place


def delimited(path: Path) -> Iterator[Found]:
    """Yield the rows of a CSV or TSV file by its header's names, numbered by the lines on which they begin.

    Raises:
        ValueError: the header cannot be read, or does not name every column once.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    bad: list[int] = []
    blank: list[int] = []
    with path.open("rb") as file:
        rows = csv.reader(_text_lines(file, bad), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        header: list[str] | None = None
        while True:
            number = rows.line_num + 1
            try:
                values = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                if header is None:  # the next row would be taken for it
                    raise ValueError(f"{path}:{number}: the header is not CSV ({error}); correct its quotes") from error
                yield number, RowError("malformed", f"{path}:{number}: not CSV ({error}); correct its quotes")
                continue
            if not values:
                blank.append(number)  # at the end of a file they are nothing
                continue
            for passed in blank:
                yield passed, RowError("empty", f"{path}:{passed}: an empty line; take it out")
            blank = []
            if header is not None:
                yield number, _record(header, values, f"{path}:{number}", bad)
                continue
            header = values
            if bad:
                raise ValueError(f"{path}:{bad[0]}: the header is not UTF-8; save the file as UTF-8")
            _check_header(header, path)


def _text_lines(file: Iterable[bytes], bad: list[int]) -> Iterator[str]:
    """Yield lines as text, and note in `bad` the numbers of those that are not UTF-8."""
    for number, line in enumerate(file, start=1):
        content = line.removeprefix(_BOM) if number == 1 else line
        try:
            yield content.decode("utf-8")
        except UnicodeDecodeError:
            bad.append(number)
            yield content.decode("utf-8", errors="replace")


def _check_header(header: list[str], path: Path) -> None:
    if len(set(header)) < len(header) or not all(name.strip() for name in header):
        index = "; pandas leaves its index out with index=False" if not header[0].strip() else ""
        raise ValueError(f"{path}:1: the first line must name every column once, it is {header}{index}")
    if len(header) == 1 and set(header[0]) & set(";\t|"):
        raise ValueError(
            f"{path}:1: the columns of the first line, {header[0]}, are not separated by commas; save it so"
        )


def _record(header: list[str], values: list[str], where: str, bad: list[int]) -> Row | RowError:
    if bad:
        faults, bad[:] = bad[0], []
        return RowError("not_utf8", f"{where.rpartition(':')[0]}:{faults}: not UTF-8; save the file as UTF-8")
    if len(values) != len(header):
        return RowError(
            "malformed", f"{where}: {len(values)} values for {len(header)} columns ({', '.join(header)}); quote commas"
        )
    return dict(zip(header, values, strict=True))


def parquet(path: Path) -> Iterator[Found]:
    """Yield the rows of a Parquet file, a batch at a time."""
    import pyarrow
    from pyarrow import parquet as reader

    try:
        batches = reader.ParquetFile(path).iter_batches(batch_size=1024)
        yield from _numbered(batches, path)
    except (pyarrow.ArrowException, OSError) as error:  # OSError: its compressed data are damaged
        raise ValueError(
            f"{path}: not a Parquet file that can be read ({base.first_line(error)}); make it again"
        ) from error


def arrow(path: Path) -> Iterator[Found]:
    """Yield the rows of an Arrow file, a batch at a time: the stream format of `datasets`, or the file format."""
    import pyarrow

    try:
        with pyarrow.OSFile(str(path)) as file:
            is_file_format = file.read(6) == b"ARROW1"
            file.seek(0)
            yield from _numbered(_batches(file, is_file_format), path)
    except (pyarrow.ArrowException, OSError) as error:  # OSError: its compressed data are damaged
        raise ValueError(f"{path}: not an Arrow file ({base.first_line(error)}); make it again") from error


def _batches(file: Any, is_file_format: bool) -> Iterator[Any]:
    import pyarrow

    if not is_file_format:
        yield from pyarrow.ipc.open_stream(file)
        return
    reader = pyarrow.ipc.open_file(file)
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)


def _numbered(batches: Iterable[Any], path: Path) -> Iterator[Found]:
    """Yield the rows of Arrow's batches. Damaged values are an error of Arrow's: reading them may end the process.

    Raises:
        ValueError: two columns have one name.
    """
    number = 0
    for batch in batches:
        batch.validate(full=True)
        names = batch.schema.names
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{path}: the column {twice} is there twice; rename one")
        short = [_shortening(field.type) for field in batch.schema]
        for row in batch.to_pylist():
            number += 1
            yield (
                number,
                {name: make(row[name]) if make else row[name] for name, make in zip(names, short, strict=True)},
            )


def _shortening(kind: Any) -> Callable[[Any], Any] | None:
    """Return what makes narrow floats the doubles of their shortest text: 0.1, not 0.10000000149011612.

    It reaches into lists, structs, maps and dictionaries. None: values of this type hold no narrow floats.
    """
    from pyarrow import types

    if types.is_float16(kind) or types.is_float32(kind):
        narrow = kind.to_pandas_dtype()
        return _unless_null(lambda value: float(str(narrow(value))))
    if types.is_dictionary(kind):
        return _shortening(kind.value_type)
    if types.is_struct(kind):
        fields = {field.name: short for field in kind if (short := _shortening(field.type))}
        shortened = lambda row: {name: fields.get(name, _same)(value) for name, value in row.items()}  # noqa: E731
        return _unless_null(shortened) if fields else None
    if types.is_map(kind):
        key, item = (_shortening(part) or _same for part in (kind.key_type, kind.item_type))
        pairs = lambda values: [(key(name), item(value)) for name, value in values]  # noqa: E731
        return None if key is item is _same else _unless_null(pairs)
    part = _shortening(kind.value_type) if types.is_nested(kind) and hasattr(kind, "value_type") else None
    return _each(part) if part else None  # of a list of any kind


def _unless_null(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else make(value)


def _each(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return _unless_null(lambda values: [make(value) for value in values])


def _same(value: Any) -> Any:
    return value


READERS: dict[str, Callable[[Path], Iterator[Found]]] = {
    ".jsonl": json_lines,
    ".jsonl.gz": json_lines,
    ".json": json_array,
    ".csv": delimited,
    ".tsv": delimited,
    ".parquet": parquet,
    ".arrow": arrow,
}
