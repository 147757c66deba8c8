"""A host that accepts a connection and never answers, or sends one byte at a time, ends no later than it should."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from harness.evaluate.judge import model as judge_model
from harness.sources import hub, packages

PINNED = "0123456789abcdef0123456789abcdef01234567"
QUICK = "import time; time.sleep = lambda s: None\nfrom harness.sources import hub\nhub.READ_SECONDS = 0.3\n"
PATHS = {
    "a branch": "hub.commit('some/model', 'main', 'model')",
    "a pinned model": f"hub.download_model('some/model', '{PINNED}', False)",
    "a pinned model with code": f"hub.download_model('some/model', '{PINNED}', True)",
    "a data set": f"from harness.data import rows; rows._from_hub('some/set', None, 'train', '{PINNED}')",
    "a data set at a branch": "from harness.data import rows; rows._from_hub('some/set', None, 'train', None)",
    "rows of a task": "from harness.evaluate import tasks; tasks.load('arc_easy', 'hub', None)",
    "a tokenizer": (
        "from harness.sources import models; from harness.records.settings import ModelSpec; "
        f"spec = ModelSpec(name='m', source='hub', hub_id='some/model', revision='{PINNED}')\n"
        "try:\n    models.tokenizer(spec)\nexcept OSError as error:\n    raise ValueError(error)"
    ),
    "a metric": (
        "hub.limit_waiting()\nimport evaluate\n"
        "try:\n    evaluate.load('some_metric')\nexcept Exception as error:\n    raise ValueError(error)"
    ),
    "urllib": (
        "hub.limit_waiting()\nimport os, urllib.request\n"
        "try:\n    urllib.request.urlopen(os.environ['HF_ENDPOINT'])\nexcept OSError as error:\n"
        "    raise ValueError(error)"
    ),
}


class Silent:
    """A server that accepts every connection, and sends `piece` again and again if there is one."""

    def __init__(self, piece: bytes = b"") -> None:
        self.piece, self.open, self.count = piece, [], 0
        self.door = socket.create_server(("127.0.0.1", 0))
        self.door.settimeout(None)  # whatever waiting another test has limited in this process
        self.port = self.door.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self.door.accept()
            except OSError:
                return
            self.count += 1
            self.open.append(line)
            if self.piece:
                threading.Thread(target=self._drip, args=(line,), daemon=True).start()

    def _drip(self, line: socket.socket) -> None:
        try:
            line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while True:
                line.sendall(self.piece)
                time.sleep(0.1)
        except OSError:
            return

    def close(self) -> None:
        self.door.close()
        for line in self.open:
            line.close()


@pytest.fixture
def silent():
    server = Silent()
    yield server
    server.close()


@pytest.mark.parametrize("path", PATHS)
def test_the_hub_that_never_answers_is_one_clear_error_in_time(silent, tmp_path, path):
    script = (
        f"{QUICK}try:\n{_indented(PATHS[path])}\nexcept ValueError as error:\n    print('ended:', str(error)[:300])\n"
    )
    environment = {
        **os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{silent.port}", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=150, env=environment, check=False
    )
    assert "ended:" in done.stdout, done.stdout + done.stderr[-2000:]
    assert silent.count, f"nobody asked it: {done.stdout}{done.stderr[-2000:]}"


def _indented(text):
    return "".join(f"    {line}\n" for line in text.split("\n"))


def test_the_limits_are_short_enough_to_be_waited_for():
    assert 0 < hub.CONNECT_SECONDS <= hub.READ_SECONDS <= 30
    assert judge_model._TIMEOUT_SECONDS <= judge_model._WHOLE_SECONDS <= 600
    assert packages._FETCH_SECONDS <= 3600


@pytest.mark.parametrize("piece", [b"", b"x"])
def test_a_silent_or_dripping_judge_is_one_clear_error(piece, monkeypatch):
    server = Silent(piece)
    monkeypatch.setattr(judge_model, "_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(judge_model, "_WHOLE_SECONDS", 0.6)
    monkeypatch.setattr(judge_model, "_PAUSES_SECONDS", (0.01,))
    by = judge_model.Judge(endpoint=f"http://127.0.0.1:{server.port}/v1", model="m", rubric="r")
    began = time.monotonic()
    with pytest.raises(ValueError, match="no verdict"):
        judge_model._ask(by, "prompt", None)
    assert time.monotonic() - began < 5
    assert server.count == 2
    server.close()


def test_a_silent_package_index_is_one_clear_error(silent, tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "_FETCH_SECONDS", 2.0)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:Planted7@127.0.0.1:{silent.port}/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    name = next(iter(packages.table().packages))
    with pytest.raises(ValueError, match=f"cannot fetch {name} .*: no end of the download in 2 s") as error:
        packages.folder(name)
    assert "Planted7" not in str(error.value)
