"""Rows in, examples out: reading, formatting, splitting and encoding, each set with a hash of its content."""

from harness.data.encode import encode
from harness.data.format import Example, render
from harness.data.prepare import Prepared, prepare
from harness.data.rows import available_splits, jsonl, official

__all__ = ["Example", "Prepared", "available_splits", "encode", "jsonl", "official", "prepare", "render"]
