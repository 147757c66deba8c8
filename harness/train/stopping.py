"""Early ends of a run, and overfitting: decided on numbers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_RISE = 0.01  # share of the lowest validation loss above which the last one has risen


class DivergedError(RuntimeError):
    """The loss or its gradient norm is NaN or infinite, or the loss has left for good."""


class Divergence:
    """Detects a loss that diverges.

    Args:
        factor: a loss above this multiple of the first one counts; None looks for NaN and infinity only.
        steps: this many such losses in a row are a divergence.
    """

    def __init__(self, factor: float | None, steps: int) -> None:
        self._factor, self._steps = factor, steps
        self._first: float | None = None
        self._above = 0

    def values(self) -> dict[str, Any]:
        """Return the state for `restore`."""
        return {"first": self._first, "above": self._above}

    def restore(self, values: dict[str, Any]) -> None:
        """Continue from what `values` returned."""
        self._first, self._above = values["first"], values["above"]

    def check(self, step: int, loss: float, gradient_norm: float) -> None:
        """Look at one step.

        Raises:
            DivergedError: names the step, and what was found there.
        """
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            raise DivergedError(f"step {step}: loss {loss}, gradient norm {gradient_norm}")
        if self._first is None:
            self._first = loss
        if self._factor is None:
            return
        self._above = self._above + 1 if loss > self._factor * self._first else 0
        if self._above >= self._steps:
            raise DivergedError(
                f"step {step}: loss {loss:.4g}, for {self._steps} steps above {self._factor:g} times the first loss "
                f"{self._first:.4g}"
            )


class Patience:
    """Early stopping: too many validations in a row without a new lowest loss. None waits for ever."""

    def __init__(self, patience: int | None) -> None:
        self._patience = patience
        self._waited = 0
        self.lowest: float | None = None

    def values(self) -> dict[str, Any]:
        """Return the state for `restore`."""
        return {"waited": self._waited, "lowest": self.lowest}

    def restore(self, values: dict[str, Any]) -> None:
        """Continue from what `values` returned."""
        self._waited, self.lowest = values["waited"], values["lowest"]

    def improved(self, loss: float) -> bool:
        """Record a validation loss; return whether it is the lowest so far."""
        if self.lowest is not None and not loss < self.lowest:
            self._waited += 1
            return False
        self.lowest, self._waited = loss, 0
        return True

    @property
    def over(self) -> bool:
        """Return whether it is time to stop."""
        return self._patience is not None and self._waited >= self._patience


def overfitted(losses: Sequence[float], validation: Sequence[tuple[int, float]]) -> bool | None:
    """Return whether the validation loss rose while the training loss fell; None if there are not two validations.

    It did if the last validation loss is more than 1 % above the lowest one, and the training loss of the steps between
    the two is lower on average than that of as many steps before.
    """
    if len(validation) < 2:
        return None
    lowest_step, lowest = min(validation, key=lambda pair: pair[1])
    last_step, last = validation[-1]
    after = losses[lowest_step:last_step]
    before = losses[max(0, lowest_step - len(after)) : lowest_step]
    if not (before and after) or last <= lowest * (1 + _RISE):
        return False
    return sum(after) / len(after) < sum(before) / len(before)
