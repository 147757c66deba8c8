"""An optimizer that steps each parameter by itself: over a float32 copy, or as soon as its gradient is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Groups = list[dict[str, Any]]


class OneByOne(torch.optim.Optimizer):  # type: ignore[misc]
    """Gives every parameter an optimizer of its own, made by `make` from a group with that parameter alone.

    `master`: the optimizer works on a float32 copy of the parameter, which is rounded from it after each step, so that
    updates smaller than the parameter's spacing add up. Beside parameters and gradients in bfloat16 (2 + 2 bytes) this
    takes 4 bytes a parameter, and one gradient at a time in float32.

    `in_backward`: step and free each gradient during the backward pass. There is then never more than one of them, so
    that they can be neither accumulated nor clipped by their common norm.
    """

    def __init__(
        self, groups: Groups, make: Callable[[Groups], torch.optim.Optimizer], master: bool, in_backward: bool
    ) -> None:
        super().__init__(groups, {})
        self._own: dict[torch.Tensor, tuple[torch.Tensor, torch.optim.Optimizer, int]] = {}
        self._in_backward = in_backward
        self._squares: list[torch.Tensor] = []
        for index, group in enumerate(self.param_groups):
            for parameter in group["params"]:
                stepped = parameter.detach().float().clone() if master else parameter
                self._own[parameter] = (stepped, make([{**group, "params": [stepped]}]), index)
                if in_backward:
                    parameter.register_post_accumulate_grad_hook(self._step_and_free)

    def step(self, closure: Any = None) -> None:
        """Step every parameter that has a gradient."""
        assert closure is None, "the loop computes the loss once a step"
        for parameter in self._own:
            if parameter.grad is not None:
                self._step_one(parameter)

    def gradient_norm(self) -> float | None:
        """Norm of the gradients that were freed since the last call; None where they are kept for others to see."""
        if not self._in_backward:
            return None
        squares, self._squares = self._squares, []
        return float(torch.stack(squares).sum().sqrt()) if squares else 0.0

    def _step_and_free(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None, "the hook is called when there is one"
        self._squares.append(parameter.grad.detach().float().square().sum())
        self._step_one(parameter)
        parameter.grad = None

    def _step_one(self, parameter: torch.Tensor) -> None:
        stepped, optimizer, index = self._own[parameter]
        rule = {key: value for key, value in self.param_groups[index].items() if key != "params"}
        optimizer.param_groups[0].update(rule)  # the schedule sets the rate of this optimizer's groups
        if stepped is parameter:
            optimizer.step()
            return
        assert parameter.grad is not None, "asked for by those that call"
        stepped.grad = parameter.grad.float()
        optimizer.step()
        stepped.grad = None
        with torch.no_grad():
            parameter.copy_(stepped)
