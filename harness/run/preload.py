"""Module that the server of forked runs imports once: it loads the whole stack without output."""

import contextlib
import gc
import logging
import os
import sys
import warnings

from harness.run.server import cuda_untouched, outlive_signals
from harness.train.signals import end_with_parent


def _import_quietly() -> None:
    """Import the stack with standard error silenced. A broken installation shows in the runs themselves."""
    saved = os.dup(2)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    try:
        with contextlib.suppress(Exception), cuda_untouched():
            import harness.run.preflight
            import harness.run.worker  # noqa: F401
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(silence)


end_with_parent()
outlive_signals()
logging.captureWarnings(True)
warnings.simplefilter("ignore")
_import_quietly()
# The libraries' million objects are never freed. Without them a garbage collection takes milliseconds instead of a
# third of a second, and each run has one at every phase boundary.
gc.collect()
gc.freeze()
