"""Hydra application of `harness -m ...`: compose, check, run, report. It decides the exit code.

0: every requested run is ok or skipped. 1: some run failed. 2: the input was wrong and nothing was started.
130, 140, 143: ended by an interrupt, SIGUSR2 or SIGTERM. The same command resumes from there.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import traceback

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from harness.config import config
from harness.records.help_text import filled
from harness.records.untrusted import echo
from harness.sources.packages import conf_dir
from harness.train.signals import SIGNALS


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")  # type: ignore[untyped-decorator]
def run_cell(cell: DictConfig) -> str:
    """Execute one run of a sweep. Launchers call it, on this machine or another."""
    from harness.sweep import sweep

    return sweep.run_cell(config.build(cell))


def main() -> None:
    """Read the command line, run the sweep and exit with its code."""
    verbose = any(word.startswith("hydra.verbose=") and not word.endswith("=false") for word in sys.argv)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here instead of ending the process with code 1
    sys.argv[1:] = _flags_first(sys.argv[1:])
    if any(_reads_a_pickle(word) for word in sys.argv[1:]):
        echo(
            "error: --experimental-rerun reads a pickle, which runs what it holds; give the settings again", sys.stderr
        )
        raise SystemExit(2)
    config.register()
    try:
        _print_help() if {"--help", "-h"} & {*sys.argv[1:]} else run_cell()
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        if verbose:
            traceback.print_exc()
        echo(f"error: {config.explain(error, _first_cell(), _compose)}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        echo("interrupted: what was finished is kept, the same command goes on from there", file=sys.stderr)
        raise SystemExit(130) from None
    except SystemExit as stop:
        if stop.code in [128 + number for number in SIGNALS]:
            echo("preempted: what was finished is kept, the same command goes on from there", file=sys.stderr)
        raise


def _print_help() -> None:
    """Print Hydra's help with the options of each group, which stand on one line, wrapped."""
    text, width = io.StringIO(), shutil.get_terminal_size().columns
    try:
        with contextlib.redirect_stdout(text):
            run_cell()
    finally:  # Hydra may end the process
        for line in text.getvalue().splitlines():
            echo(line if line.startswith(" ") else "\n".join(filled(line, width, hanging=4)))


def _reads_a_pickle(word: str) -> bool:
    """Return whether a word is Hydra's option that repeats a run, which may be abbreviated."""
    option = word.partition("=")[0]
    return option.startswith("--e") and "--experimental-rerun".startswith(option)


def _flags_first(words: list[str]) -> list[str]:
    """Return the words with `-m` first, since Hydra's parser refuses it between two settings."""
    flags = [word for word in words if word in ("-m", "--multirun")]
    return [*flags[:1], *(word for word in words if word not in flags)]


def _first_cell() -> tuple[str, ...]:
    """Return the command line's overrides, with the first value of every list."""
    from harness.config.overrides import expand

    words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    try:
        return expand([], words)[0]
    except (ValueError, HydraException):
        return ()


def _compose(overrides: tuple[str, ...]) -> DictConfig:
    """Compose outside of the application, so that an error can name the allowed values."""
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))
