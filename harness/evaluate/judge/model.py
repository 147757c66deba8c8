"""A language model as judge: one request per answer to `<endpoint>/chat/completions`, and a score read from the reply.

The prompt, the rubric and the model's name are recorded. The key comes from the environment and is recorded nowhere.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from harness.evaluate.judge.answers import Answer
from harness.records import redact
from harness.records.base import Strict
from harness.stats import mean_and_standard_error

PROMPT = """\
{rubric}

[Question]
{prompt}

[Reference answer]
{reference}

[Answer to be judged]
{answer}

End your reply with a line "Score: N", with N from {lowest} to {highest}."""
_TIMEOUT_SECONDS = 120
_WHOLE_SECONDS = 300  # for a whole reply
_MOST_BYTES = 10_000_000
_PAUSES_SECONDS = (2, 8, 30)  # before a retry, if the endpoint is busy or briefly unreachable
_LONGEST_PAUSE_SECONDS = 120  # that Retry-After may ask for
_BUSY = (408, 429, 500, 502, 503, 504, 529)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Endpoint, model, rubric and score range; `key_variable` is the environment variable with the key, or None."""

    endpoint: str
    model: str
    rubric: str
    lowest: int = 1
    highest: int = 10
    key_variable: str | None = None


@dataclass(frozen=True)
class Verdict:
    """A judge's reply; the score is None if the reply has none in the range."""

    item_id: str
    score: float | None
    reply: str


def check(by: Judge) -> None:
    """Check the settings of a judge before the first request.

    Raises:
        ValueError: the endpoint contains secrets, which would be recorded, the range is empty, or the key is not set.
    """
    place = _parsed(by.endpoint)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise ValueError(f"--endpoint {redact.text(by.endpoint)}: give http://<host>/v1 or https://<host>/v1")
    if "@" in by.endpoint or any(sign in by.endpoint for sign in "?#;"):
        raise ValueError("--endpoint: it is recorded, so no user, password or query may be in it; see --key-variable")
    if by.lowest >= by.highest:
        raise ValueError(f"--range {by.lowest} {by.highest}: the lower end comes first")
    _key(by)


def _parsed(endpoint: str) -> SplitResult:
    try:
        place = urlsplit(endpoint)
        _ = place.port  # raises where it is no number
    except ValueError as error:
        raise ValueError(f"--endpoint {redact.text(endpoint)}: {error}; give http://<host>/v1") from error
    return place


def judge(by: Judge, answers: Sequence[Answer], receive: Callable[[Verdict], None]) -> None:
    """Request a verdict on each answer, at temperature 0, and pass it to `receive` at once.

    Raises:
        ValueError: the endpoint is unreachable, refuses, or sends another form of reply; also as in `check`.
    """
    check(by)
    key = _key(by)
    for answer in answers:
        reply = _ask(by, text(by, answer), key)
        receive(Verdict(answer.item_id, read_score(reply, by), reply))


def text(by: Judge, answer: Answer) -> str:
    """Return the prompt for the judge."""
    return PROMPT.format(
        rubric=by.rubric.strip(), prompt=answer.prompt, reference=answer.reference, answer=answer.answer,
        lowest=by.lowest, highest=by.highest,
    )  # fmt: skip


def read_score(reply: str, by: Judge) -> float | None:
    """Return the number after the last "Score:", if it is in the range; otherwise None."""
    numbers = re.findall(r"score[*_\"]*\s*[:=][\s*_]*(-?\d+(?:\.\d+)?)", reply, re.IGNORECASE)
    score = float(numbers[-1]) if numbers else math.nan
    return score if by.lowest <= score <= by.highest else None


def mean(verdicts: Sequence[Verdict]) -> tuple[float | None, float | None]:
    """Return the mean score and its standard error over the answers with a score; None where there are too few."""
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    if not scores:
        return None, None
    estimate = mean_and_standard_error(scores)
    return estimate.value, estimate.standard_error


def _key(by: Judge) -> str | None:
    if by.key_variable is None:
        return None
    key = os.environ.get(by.key_variable)
    if not key:
        raise ValueError(f"--key-variable {by.key_variable}: this environment variable is not set; put the key there")
    return key


def _ask(by: Judge, prompt: str, key: str | None) -> str:
    body = {"model": by.model, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    url = f"{by.endpoint.rstrip('/')}/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    for pause in (*_PAUSES_SECONDS, None):
        try:
            reply: Any = json.loads(_within(_WHOLE_SECONDS, lambda: _answer(request)))
            return str(reply["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            with error:
                if error.code not in _BUSY or pause is None:
                    reason = _said(error, key)
                    raise ValueError(f"{url}: {reason}; check the endpoint, the model and the key") from error
            time.sleep(_asked_for(error) or pause)
        except (OSError, HTTPException) as error:
            nobody = isinstance(getattr(error, "reason", None), ConnectionRefusedError | socket.gaierror)
            if nobody or pause is None:
                raise ValueError(_no_verdict(url, error)) from error
            time.sleep(pause)
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(_no_verdict(url, error)) from error
    raise AssertionError("the last try returns or raises")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Handler that follows no redirect: the key in the header is for the endpoint that was named, and nobody else."""

    def redirect_request(self, *request: Any) -> None:
        return None


def _answer(request: urllib.request.Request) -> bytes:
    opener = urllib.request.build_opener(_NoRedirect)
    with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
        content: bytes = response.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"the reply is longer than {_MOST_BYTES:,} bytes")
    return content


def _within(seconds: float, call: Callable[[], bytes]) -> bytes:
    """Return what `call` returns. A socket's own limit is for each piece, and an endpoint may send one at a time.

    Raises:
        TimeoutError: it has not ended after that time.
        Exception: whatever it raises.
    """
    outcome: list[bytes | BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no whole reply in {seconds:.0f} s")
    result = outcome.pop()  # nothing refers to an error and its connection any more
    if isinstance(result, BaseException):
        raise result
    return result


def _no_verdict(url: str, error: Exception) -> str:
    return f"{url}: no verdict ({type(error).__name__}: {error}); is it OpenAI-compatible?"


def _asked_for(error: urllib.error.HTTPError) -> float | None:
    """Return the pause in seconds that the endpoint asks for, if it is at most two minutes."""
    seconds = str(error.headers.get("Retry-After") or "")
    return float(seconds) if seconds.isdecimal() and 0 < int(seconds) <= _LONGEST_PAUSE_SECONDS else None


def _said(error: urllib.error.HTTPError, key: str | None) -> str:
    """Return code, reason and the beginning of the endpoint's message, without the key."""
    try:
        content = _within(_TIMEOUT_SECONDS, lambda: error.read(2_000))
    except OSError:
        content = b""
    body = " ".join(content.decode("utf-8", "replace").split())[:300]
    text = f"{error.code} {error.reason}" + (f" ({body})" if body and not body.startswith("<") else "")
    return text.replace(key, "<key>") if key else text


@dataclass(frozen=True, kw_only=True)
class JudgementRecord(Strict):
    """Verdicts of a model on one run's answers; (item id, score, reply) per answer. The key is not recorded."""

    schema: int
    eval_id: str
    judged_at: str  # ISO 8601, UTC
    endpoint: str
    model: str
    rubric: str
    prompt: str  # with places for the rubric, the question, the reference and the answer
    score_range: tuple[int, int]
    mean: float | None
    stderr: float | None
    num_unparsable: int  # replies without a score in the range, which are left out of the mean
    verdicts: tuple[tuple[str, float | None, str], ...]
    weights_from: str | None


class Unfinished:
    """File of verdicts, one per line, so that a retry does not request, and perhaps pay for, the same ones again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Verdict]:
        """Return the verdicts by item id. Incomplete lines are skipped."""
        verdicts = {}
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        for line in lines:
            try:
                verdict = Verdict(*json.loads(line))
            except (ValueError, TypeError):
                continue
            verdicts[verdict.item_id] = verdict
        return verdicts

    def add(self, verdict: Verdict) -> None:
        """Append a verdict."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([verdict.item_id, verdict.score, verdict.reply]) + "\n")

    def remove(self) -> None:
        """Remove the file, once its verdicts are in a record."""
        self._path.unlink(missing_ok=True)
