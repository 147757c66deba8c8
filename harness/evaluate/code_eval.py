"""The metric `code_eval` as a module of `evaluate`, whose own script would be downloaded.

Each program runs in its own process and in an empty folder that is removed afterwards. It has at most three seconds, as
in Chen et al. 2021 (arXiv 2107.03374), and four GiB. This is no sandbox: a program may do whatever your account may.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from math import comb
from typing import Any

import datasets
import evaluate

SECONDS = 3.0
WHO = f"harness.evaluate.code_eval, {SECONDS:g} s a program"
_PASSED = 42
_MOST_BYTES = 4 * 2**30
_START_SECONDS = 60.0  # to start the interpreter on a busy machine; the program's own time begins after that
# A program passes if its last line is reached. Its output and its own exit code do not count.
_RUN = f"""
import os, resource, signal, sys
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
most = {_MOST_BYTES} if hard == resource.RLIM_INFINITY else min(hard, {_MOST_BYTES})
resource.setrlimit(resource.RLIMIT_AS, (most, most))
program = sys.stdin.read()
sys.stdin = open(os.devnull)
signal.setitimer(signal.ITIMER_REAL, {SECONDS})
try:
    exec(compile(program, "<answer>", "exec"), {{"__name__": "__answer__"}})
except BaseException:
    os._exit(1)
os._exit({_PASSED})
"""
Results = dict[int, list[tuple[int, dict[str, Any]]]]


def passes(program: str) -> bool:
    """Return True if a program reaches its end in time and without an exception."""
    with tempfile.TemporaryDirectory(prefix="harness-answer-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _RUN],
            cwd=folder,
            env={**_environment(), "HOME": folder, "TMPDIR": folder},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.communicate(program.encode("utf-8", errors="replace"), timeout=_START_SECONDS + SECONDS)
        except subprocess.TimeoutExpired:
            return False
        finally:
            _end(process)
        return process.returncode == _PASSED


def _environment() -> dict[str, str]:
    """Return only those environment variables that an interpreter needs to start."""
    return {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process group, that is the program and the processes that it has started in it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def pass_at_k(passed: int, tried: int, k: int) -> float:
    """Return the pass@k estimate from `passed` of `tried` programs (Chen et al. 2021, equation 1)."""
    return 1.0 - comb(tried - passed, k) / comb(tried, k)


class CodeEval(evaluate.Metric):  # type: ignore[misc]
    """pass@k of candidate programs, each with a test behind it."""

    def _info(self) -> Any:
        texts = datasets.Value("string")
        features = datasets.Features({"predictions": datasets.Sequence(texts), "references": texts})
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="Chen et al. 2021, arXiv 2107.03374",
            inputs_description="a list of programs and one test for each problem",
            features=features,
        )

    def _compute(
        self, predictions: Sequence[Sequence[str]], references: Sequence[str], k: Sequence[int] = (1, 10, 100)
    ) -> tuple[dict[str, float], Results]:
        """Return `pass@k` for each k where every problem has at least k programs, and all results, as published."""
        if os.environ.get("HF_ALLOW_CODE_EVAL") != "1":
            raise ValueError("the code that a model writes is run only where eval.unsafe_code=true says so")
        results: Results = {}
        for problem, (programs, test) in enumerate(zip(predictions, references, strict=True)):
            outcomes = [passes(f"{program}\n{test}") for program in programs]
            results[problem] = [(i, {"task_id": problem, "passed": passed}) for i, passed in enumerate(outcomes)]
        counts = [(sum(passed["passed"] for _, passed in outcomes), len(outcomes)) for outcomes in results.values()]
        fit = [size for size in k if all(tried >= size for _, tried in counts)]
        return {f"pass@{n}": sum(pass_at_k(*count, n) for count in counts) / len(counts) for n in fit}, results
