"""Many processes that ask for the same tokens get one whole cache, whoever is killed on the way."""

import json
import os
import subprocess
import sys
import time

from harness.data import Wanted, tokenized
from harness.data.tokens import PARTS, cached
from harness.records import disk
from harness.records.settings import DataSpec, RowsSpec

# imports once, and forks: each child is a process that asks by itself once all are there
ASK = """
import os, signal, sys, time
from pathlib import Path
from transformers import AutoTokenizer
from harness.data import Wanted, tokenized
from harness.records.settings import DataSpec, RowsSpec
file, model, number, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
spec = DataSpec(name="rows", source="package", train=(RowsSpec(file=file),), validation_fraction=0.1, content="c")
wanted = Wanted(model_content="m", max_length=64, loss_on="completion")
tokenizer = AutoTokenizer.from_pretrained(model)

def until(path):
    while not path.exists():
        time.sleep(0.002)

def ask(told):
    until(folder / "go")
    found = tokenized(spec, tokenizer, wanted, told)
    return f"{len(found.train)} {len(found.validation)} {found.train[-1]['input_ids']}"

def stop(what, rows):
    if what == "tokens of train":
        (folder / "writing").touch()
        time.sleep(600)

def child(name, told):
    process = os.fork()
    if process == 0:
        (folder / name).write_text(ask(told))
        os._exit(0)
    return process

doomed = child("doomed", stop)
others = [child(f"answer-{n}", lambda *_: None) for n in range(number)]
(folder / "go").touch()
until(folder / "writing")
os.kill(doomed, signal.SIGKILL)
print(os.waitpid(doomed, 0)[1], [os.waitpid(one, 0)[1] for one in others])
"""
NUM_ROWS, NUM_ASKING = 6_000, 4


def test_many_that_ask_at_once_get_one_whole_cache(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    file, answers = tmp_path / "rows.jsonl", tmp_path / "answers"
    answers.mkdir()
    file.write_text("".join(json.dumps({"prompt": f"Q {n}", "completion": f" {n}"}) + "\n" for n in range(NUM_ROWS)))
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(file), str(tiny_model), str(NUM_ASKING), str(answers)],
        capture_output=True, text=True, timeout=300, check=True, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )  # fmt: skip
    assert done.stdout == f"9 {[0] * NUM_ASKING}\n", (
        "one was killed as it wrote, and the others had what they asked for"
    )
    read = [path.read_text() for path in answers.glob("answer-*")]
    assert len(read) == NUM_ASKING
    folder, found = here(file, tiny_model)
    assert set(read) == {f"{len(found.train)} {len(found.validation)} {found.train[-1]['input_ids']}"}
    assert len(found.train) + len(found.validation) == NUM_ROWS
    made = sorted(path.name for path in folder.iterdir())
    assert made == sorted([*(f"{part}.arrow" for part in PARTS), "counts.json", disk.NAME])
    [left] = set(folder.parent.iterdir()) - {folder}
    assert left.name.startswith(".writing-"), "what was killed is never taken for tokens"
    os.utime(left, (time.time() - 8 * 86_400,) * 2)
    here(file, tiny_model, max_length=32)
    assert not left.exists(), "and goes when it is a week old"
    assert folder.is_dir()


def here(file, tiny_model, max_length=64):
    """(the folder, the tokens) asked for in this process."""
    from transformers import AutoTokenizer

    spec = DataSpec(
        name="rows", source="package", train=(RowsSpec(file=str(file)),), validation_fraction=0.1, content="c"
    )
    wanted = Wanted(model_content="m", max_length=max_length, loss_on="completion")
    return cached(spec, wanted), tokenized(spec, AutoTokenizer.from_pretrained(tiny_model), wanted)
