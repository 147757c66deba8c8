"""Files as people have them, where an easy reader gives other text or other rows than were written."""

import decimal
import json
import os
import socket

import pyarrow
import pytest
from pyarrow import parquet

from harness.data import files
from harness.data.files import RowError
from harness.data.format import render
from harness.data.prepare import prepare
from harness.records.settings import DataSpec, RowsSpec


def written(value) -> str:
    """The text that a row with this completion trains."""
    return render([{"prompt": "p", "completion": value}], RowsSpec())[0].completion


def rows_of(path):
    return [row for _, row in files.stream(path)]


# numbers


NUMBERS = ["2.50", "1e5", "1E+2", "-0.0", "-0", "0.10", "3.0", "-7", "123456789012345678901234567890", "1.000"]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_a_number_is_trained_as_it_is_written(tmp_path, number, suffix):
    path = tmp_path / f"rows.{suffix}"
    row = f'{{"prompt": "p", "completion": {number}}}'
    path.write_text(f"[{row}]" if suffix == "json" else row + "\n")
    [given] = rows_of(path)
    assert written(given["completion"]) == number
    for template in ("{{completion ~ ''}}", "{{completion|string}}", "{{[completion]|join}}"):
        assert render([given], RowsSpec(completion=template))[0].completion == number


@pytest.mark.parametrize("kind", [pyarrow.float16(), pyarrow.float32(), pyarrow.float64()], ids=str)
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_number_of_any_width_is_trained_with_the_digits_that_it_has(tmp_path, kind, suffix):
    path = tmp_path / f"rows.{suffix}"
    column = pyarrow.array([0.1, 2.5, -3.0, None], pyarrow.float32()).cast(kind)
    if kind == pyarrow.float64():
        column = pyarrow.array([0.1, 2.5, -3.0, None])
    write(path, pyarrow.table({"prompt": ["p"] * 4, "completion": column}))
    values = [row["completion"] for row in rows_of(path)]
    assert [written(value) for value in values[:3]] == ["0.1", "2.5", "-3.0"]
    assert values[3] is None


F32 = pyarrow.float32()
NESTED = {
    "list": (pyarrow.list_(F32), [0.1, None]),
    "large list": (pyarrow.large_list(F32), [0.1]),
    "list of a length": (pyarrow.list_(F32, 2), [0.1, 2.5]),
    "struct": (pyarrow.struct({"a": F32, "b": pyarrow.string()}), {"a": 0.1, "b": "x"}),
    "list of structs": (pyarrow.list_(pyarrow.struct({"a": pyarrow.list_(F32)})), [{"a": [0.1]}, None]),
    "map": (pyarrow.map_(pyarrow.string(), F32), [("k", 0.1)]),
    "map of names": (pyarrow.map_(F32, pyarrow.string()), [(0.1, "v")]),
    "dictionary": (pyarrow.dictionary(pyarrow.int32(), F32), 0.1),
    "no narrow number": (pyarrow.list_(pyarrow.struct({"a": pyarrow.float64()})), [{"a": 0.1}]),
}


@pytest.mark.parametrize("name", NESTED)
def test_numbers_within_lists_and_structs_have_the_digits_of_their_width(tmp_path, name):
    assert len(NESTED) == 9
    kind, value = NESTED[name]
    values = [value, None]
    is_dictionary = pyarrow.types.is_dictionary(kind)
    column = pyarrow.array(values, F32).dictionary_encode() if is_dictionary else pyarrow.array(values, kind)
    write(tmp_path / "rows.arrow", pyarrow.table({"x": column}))
    assert [row["x"] for row in rows_of(tmp_path / "rows.arrow")] == values


def test_a_decimal_is_trained_as_it_is_written(tmp_path):
    write(tmp_path / "rows.parquet", pyarrow.table({"completion": [decimal.Decimal("2.50")], "prompt": ["p"]}))
    assert written(rows_of(tmp_path / "rows.parquet")[0]["completion"]) == "2.50"


def write(path, table) -> None:
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    else:
        with pyarrow.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)


# rows and columns that would vanish


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_two_columns_of_one_name_are_refused(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    columns = [pyarrow.array([text]) for text in ("p", "one", "other")]
    write(path, pyarrow.Table.from_arrays(columns, names=["prompt", "completion", "completion"]))
    with pytest.raises(ValueError, match=rf"rows\.{suffix}: the column completion is there twice"):
        rows_of(path)


@pytest.mark.parametrize("rest", ['[{"text": "b"}]', "x", "{}", "]"])
def test_what_stands_behind_an_array_is_refused(tmp_path, rest):
    path = tmp_path / "rows.json"
    path.write_text('[{"text": "a"}]\n\n' + rest)
    with pytest.raises(ValueError, match=r"rows\.json:3: .* behind the array"):
        rows_of(path)
    path.write_text('[{"text": "a"}]\n\n')
    assert rows_of(path) == [{"text": "a"}]


@pytest.mark.parametrize(
    "name", ["a b", "a-b", "x.y", "1x", "self", "true", "none", "prompt ", "question?", "Antwort/en"]
)
def test_a_column_of_any_name_can_be_written(name):
    row = {name: "V", "answer": "A"}
    example = render([row], RowsSpec(prompt=f"{{{{ row[{name!r}] }}}}", completion="{{answer}}"))[0]
    assert example.prompt == "V"
    with pytest.raises(ValueError, match=r"row\['") as refused:
        render([row], RowsSpec(prompt=f"{{{{{name}}}}}", completion="{{answer}}"))
    assert "Traceback" not in str(refused.value)


def test_a_column_that_is_called_row_stays_the_column():
    assert render([{"row": "V", "answer": "A"}], RowsSpec(prompt="{{row}}", completion="{{answer}}"))[0].prompt == "V"


def test_a_column_that_comes_late_is_named_as_unused(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"p{i}", "completion": "c", **({"reply": "r"} if i == 30 else {})} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = DataSpec(name="file", source="package", train=(RowsSpec(file=str(path)),), validation_fraction=0.2)
    [reading] = prepare(spec).readings
    assert (reading.used, reading.unused) == (("prompt", "completion"), ("reply",))


# what is no file


def fifo(path):
    os.mkfifo(path)


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))


NO_FILES = {
    "fifo": fifo,
    "socket": bound_socket,
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", ["train.jsonl", "train-00000-of-00001.parquet", "rows.csv"])
def test_what_is_no_file_in_a_folder_of_rows_is_named(tmp_path, monkeypatch, kind, name):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    NO_FILES[kind](tmp_path / name) if kind != "socket" else bound_socket(name)
    with pytest.raises(ValueError, match=rf"{name}.* not a file"):
        rows_of(tmp_path)
    with pytest.raises(ValueError, match=name):
        rows_of(tmp_path / name)


def test_a_path_that_no_file_can_have_is_one_clear_error(tmp_path):
    for name in ("a" * 300 + ".jsonl", "x/" * 3000 + "a.jsonl"):
        with pytest.raises(ValueError, match="cannot be read: File name too long"):
            rows_of(tmp_path / name)


def test_every_reader_gives_rows_or_one_error(tmp_path):
    """Twelve contents under every suffix: rows, or a ValueError, and nothing else."""
    contents = [
        b"", b"\xff\xfe{\x00", b"\x00" * 100, b"{", b"[", b'{"a": 1}', b"a,b\n1,2\n", b"PAR1", b"ARROW1\x00\x00",
        b"\x1f\x8b", "{'a': 1}\n".encode("utf-16"), b'"a\n',
    ]  # fmt: skip
    outcomes = []
    for suffix in files.READERS:
        for number, content in enumerate(contents):
            path = tmp_path / f"{number}{suffix}"
            path.write_bytes(content)
            try:
                outcomes.append(all(isinstance(row, dict | RowError) for row in rows_of(path)))
            except ValueError as error:
                outcomes.append(path.name in str(error))
    assert outcomes == [True] * 84


SURROGATES = [
    (r"a\ud83d", False), (r"\uDE00a", False), (r"\ud83d\ud83d", False), (r"\ud83d\ude00", True),
    (r"\uD83D\uDE00", True), (r"\\ud83d", True),
]  # fmt: skip


@pytest.mark.parametrize("where", ["value", "nested", "name"])
@pytest.mark.parametrize(("text", "is_text"), SURROGATES)
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_half_a_sign_is_refused_in_its_row_and_whole_signs_are_read(tmp_path, suffix, text, is_text, where):
    path = tmp_path / f"rows.{suffix}"
    row = {"value": f'{{"p": "{text}"}}', "nested": f'{{"p": [{{"x": "{text}"}}]}}', "name": f'{{"{text}": 1}}'}[where]
    good = '{"p": "a"}'
    path.write_text(f"[{good},\n{row},\n{good}]" if suffix == "json" else f"{good}\n{row}\n{good}\n")
    first, odd, last = rows_of(path)
    assert (first, last) == ({"p": "a"}, {"p": "a"})
    if is_text:
        assert odd == json.loads(row)
    else:
        assert (odd.kind, str(odd)) == ("not_utf8", f"{path}:2: an unpaired surrogate escape is not text; correct it")
