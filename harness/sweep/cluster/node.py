"""Start of a job on a node: submitit's, with pickles that only their owner can have written.

`python -m harness.sweep.cluster.node FOLDER` takes the place of `python -m submitit.core._submit FOLDER`. submitit
hands a job over in a pickle, and reading one runs what it holds. The folder may be a group's, so that a file of another
user, or one that others may write, is refused before it is read.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

_OTHERS_WRITE = 0o022


def keep_private() -> None:
    """Have submitit write the pickles of jobs for their owner alone, and read no others."""
    from submitit.core import utils

    utils.DelayedSubmission.dump = dump
    utils.DelayedSubmission.load = staticmethod(load)


def dump(job: Any, path: str | Path) -> None:
    """Write a job for this user alone, whatever the umask."""
    import cloudpickle

    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        cloudpickle.dump(job, file)


def load(path: str | Path) -> Any:
    """Read a job that this user has submitted.

    Raises:
        SystemExit: the file is another user's or may be written by others. It is no `Exception`, which submitit would
            record as the job's own result.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as file:
        owned = os.fstat(handle)
        if owned.st_uid != os.geteuid() or owned.st_mode & _OTHERS_WRITE:
            raise SystemExit(
                f"{path}: belongs to user {owned.st_uid} with mode {owned.st_mode & 0o777:o}; a job is read only from "
                f"a file of its own user ({os.geteuid()}) that nobody else may write: submit the sweep again"
            )
        return pickle.loads(file.read())


def main() -> None:
    """Run the job whose folder the command line names."""
    from submitit.core.submission import submitit_main

    keep_private()
    submitit_main()


if __name__ == "__main__":
    main()
