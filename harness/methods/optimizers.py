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
        self._show_state()

    def _show_state(self) -> None:
        """Have `state` hold what there is, as it does in any optimizer: memory is counted by it."""
        for parameter, (stepped, optimizer, _) in self._own.items():
            copy = {} if stepped is parameter else {"master": stepped}
            self.state[parameter] = {**copy, "own": optimizer.state}

    def step(self, closure: Any = None) -> None:
        """Step every parameter that has a gradient."""
        assert closure is None, "the loop computes the loss once a step"
        for parameter in self._own:
            if parameter.grad is not None:
                self._step_one(parameter)

    def state_dict(self) -> dict[str, Any]:
        """The groups, and for each parameter in their order its optimizer's state and its float32 copy."""
        own = [
            {"master": None if stepped is parameter else stepped.detach(), "optimizer": optimizer.state_dict()}
            for parameter, (stepped, optimizer, _) in self._own.items()
        ]
        return {"param_groups": super().state_dict()["param_groups"], "own": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        for (stepped, optimizer, _), state in zip(self._own.values(), state_dict["own"], strict=True):
            optimizer.load_state_dict(state["optimizer"])
            if state["master"] is not None:
                with torch.no_grad():
                    stepped.copy_(state["master"])
        self._show_state()  # loading has made other tables

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


def galore(groups: Groups) -> torch.optim.Optimizer:
    """GaLore's AdamW, with the constants of the one that it is compared with, and a state of numbers and tensors."""
    from galore_torch import GaLoreAdamW
    from galore_torch.galore_projector import GaLoreProjector

    class Storable(GaLoreAdamW):  # type: ignore[misc]
        def state_dict(self) -> dict[str, Any]:
            found = super().state_dict()
            states = {key: {n: _opened(v) for n, v in state.items()} for key, state in found["state"].items()}
            return {**found, "state": states}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(state_dict)
            for group in self.param_groups:
                states = [self.state[parameter] for parameter in group["params"] if parameter in self.state]
                for state in (state for state in states if "projector" in state):
                    rule = {name: group[name] for name in ("update_proj_gap", "scale", "proj_type")}
                    matrix, state["projector"] = state["projector"], GaLoreProjector(group["rank"], **rule)
                    state["projector"].ortho_matrix = matrix

    def _opened(value: Any) -> Any:
        return value.ortho_matrix if isinstance(value, GaLoreProjector) else value

    optimizer: torch.optim.Optimizer = Storable(groups, eps=1e-8, no_deprecation_warning=True)
    return optimizer
