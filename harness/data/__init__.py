"""Rows in, examples out: reading, formatting, splitting and encoding, each set with a hash of its content."""

from harness.data.encode import encode
from harness.data.format import Example, render
from harness.data.packing import Packed
from harness.data.prepare import Prepared, prepare
from harness.data.rows import available_splits, jsonl, official
from harness.data.token_rows import Drawn, Short, TokenRows
from harness.data.tokens import Wanted, tokenized

__all__ = [
    "Drawn",
    "Example",
    "Packed",
    "Prepared",
    "Short",
    "TokenRows",
    "Wanted",
    "available_splits",
    "encode",
    "jsonl",
    "official",
    "prepare",
    "render",
    "tokenized",
]
