"""What the fault tests share: plans, the process that plays sweeps and kills them."""

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from harness.config import config
from harness.run import inputs
from harness.sweep.planned_runs import PlannedRun, Wanted

HERE = Path(__file__).parent


class Driver:
    """Forks sweeps and kills them; see driver.py."""

    def __init__(self, *arguments):
        command = [sys.executable, str(HERE / "driver.py"), *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def play(self, plan, *kills, **settings):
        """How each of the sweeps at once ended: (exit code, file operations, seconds)."""
        words = {"plan": str(plan), "kills": kills or [None], **settings}
        print(json.dumps(words), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0


@pytest.fixture(scope="session")
def driver():
    started = Driver()
    yield started
    started.close()


@pytest.fixture(scope="module")
def real_driver():
    started = Driver("real")
    yield started
    started.close()


@pytest.fixture(scope="session")
def plan(compose, tiny_model, letters_file, tmp_path_factory):
    """A pickled plan of base, two recipes and two seeds in a new store at each call; stand-ins know no task."""
    words = [
        "model.source=path", f"model.path={tiny_model}", "model.name=tiny", "data=file", f"data.file={letters_file}",
        "eval.tasks=[]", "train=smoke", "eval=smoke", "train.precision=fp32", "tracking=none", "max_retries=0",
    ]  # fmt: skip
    cells = [
        ("method=base",),
        *((f"method={name}", f"seed={seed}") for name in ("lora", "full") for seed in (0, 1)),
        *((f"method={name}", f"seed={seed}") for name in ("lora", "full") for seed in (2, 3, 4, 5)),
    ]
    known = {}
    resolved = []

    def planned(count=5, **changed):
        folder = tmp_path_factory.mktemp("store")
        for cell in cells[len(resolved) : count]:
            resolved.append(inputs.resolve(config.build(compose(*words, *cell)), cache=known))
        below = {"runs_dir": str(folder / "runs"), "reports_dir": str(folder / "reports"), **changed}
        made = [
            PlannedRun(Wanted(cell), dataclasses.replace(one, **below))
            for cell, one in zip(cells[:count], resolved, strict=False)
        ]
        path = folder / "plan.pickle"
        path.write_bytes(pickle.dumps(made))
        return path

    return planned
