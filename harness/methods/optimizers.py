"""Optimizers over float32 copies, over one parameter at a time, and with states in paged memory or of another kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Groups = list[dict[str, Any]]
BUCKET_BYTES = 256 * 2**20  # float32 gradients that exist at a time


@dataclass(frozen=True)
class _Bucket:
    """Parameters of one group, their float32 copies and the optimizer that steps these together."""

    parameters: list[torch.Tensor]
    masters: list[torch.Tensor]
    optimizer: torch.optim.Optimizer
    group: int


class MasterAdamW(torch.optim.Optimizer):  # type: ignore[misc]
    """AdamW on a float32 copy of every parameter, which is rounded from it after each step.

    Updates smaller than the parameter's spacing add up in the copy. Beside parameters and gradients in bfloat16 (2 + 2
    bytes) and the moments (8) this takes 4 bytes a parameter, and the float32 gradients of one bucket. There is one
    fused AdamW for each `bucket_bytes` of parameters: one for each parameter keeps a GPU waiting for Python (reasoned,
    not measured on a GPU).
    """

    def __init__(self, groups: Groups, bucket_bytes: int = BUCKET_BYTES) -> None:
        super().__init__(groups, {})
        self._buckets: list[_Bucket] = []
        for index, group in enumerate(self.param_groups):
            for parameters in _bucketed(group["params"], bucket_bytes):
                masters = [parameter.detach().float().clone() for parameter in parameters]
                optimizer = torch.optim.AdamW([{**group, "params": masters}], fused=True)
                self._buckets.append(_Bucket(parameters, masters, optimizer, index))
        self._show_state()

    def _show_state(self) -> None:
        """Show the state of the inner optimizers in `state`, by which memory is counted."""
        for bucket in self._buckets:
            for parameter, master in zip(bucket.parameters, bucket.masters, strict=True):
                self.state[parameter] = {"master": master, "own": bucket.optimizer.state[master]}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Any = None) -> None:
        """Step every parameter that has a gradient."""
        assert closure is None, "the loop computes the loss once a step"
        for bucket in self._buckets:
            rule = {key: value for key, value in self.param_groups[bucket.group].items() if key != "params"}
            bucket.optimizer.param_groups[0].update(rule)  # the schedule sets the rate of this optimizer's groups
            pairs = list(zip(bucket.parameters, bucket.masters, strict=True))
            for parameter, master in pairs:
                master.grad = None if parameter.grad is None else parameter.grad.float()
            bucket.optimizer.step()
            for parameter, master in pairs:
                if master.grad is not None:
                    parameter.copy_(master)
                master.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return the groups, and for each bucket its float32 copies and its optimizer's state."""
        own = [
            {"masters": [master.detach() for master in bucket.masters], "optimizer": bucket.optimizer.state_dict()}
            for bucket in self._buckets
        ]
        return {"param_groups": super().state_dict()["param_groups"], "own": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        for bucket, state in zip(self._buckets, state_dict["own"], strict=True):
            bucket.optimizer.load_state_dict(state["optimizer"])
            with torch.no_grad():
                for master, stored in zip(bucket.masters, state["masters"], strict=True):
                    master.copy_(stored)
        self._show_state()  # loading has made other tables


def _bucketed(parameters: list[torch.Tensor], limit: int) -> list[list[torch.Tensor]]:
    """Return the parameters in their order, in runs whose float32 gradients take at most `limit` bytes, or of one."""
    buckets: list[list[torch.Tensor]] = []
    room = 0
    for parameter in parameters:
        size = 4 * parameter.numel()
        if not buckets or size > room:
            buckets.append([])
            room = limit
        buckets[-1].append(parameter)
        room -= size
    return buckets


class PerParameterOptimizer(torch.optim.Optimizer):  # type: ignore[misc]
    """Gives every parameter an optimizer of its own, made by `make` from a group with that parameter alone.

    `master`: the optimizer works on a float32 copy of the parameter, which is rounded from it after each step, as in
    `MasterAdamW`; there is one gradient at a time in float32.

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

    @property
    def steps_in_backward(self) -> bool:
        """Return whether a backward pass changes weights."""
        return self._in_backward

    def _show_state(self) -> None:
        """Show the state of the inner optimizers in `state`, by which memory is counted."""
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
        """Return the groups, and for each parameter in their order its optimizer's state and its float32 copy."""
        own = [
            {"master": None if stepped is parameter else stepped.detach(), "optimizer": optimizer.state_dict()}
            for parameter, (stepped, optimizer, _) in self._own.items()
        ]
        return {"param_groups": super().state_dict()["param_groups"], "own": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        for (stepped, optimizer, _), state in zip(self._own.values(), state_dict["own"], strict=True):
            optimizer.load_state_dict(state["optimizer"])
            if state["master"] is not None:
                with torch.no_grad():
                    stepped.copy_(state["master"])
        self._show_state()  # loading has made other tables

    def gradient_norm(self) -> float | None:
        """Return the norm of the gradients that were freed since the last call; None if gradients are not freed."""
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
    """Return GaLore's AdamW, with the baseline AdamW's constants, and a state of numbers and tensors."""
    from galore_torch import GaLoreAdamW
    from galore_torch.galore_projector import GaLoreProjector

    class Storable(GaLoreAdamW):  # type: ignore[misc]
        def state_dict(self) -> dict[str, Any]:
            result = super().state_dict()
            states = {key: {n: _opened(v) for n, v in state.items()} for key, state in result["state"].items()}
            return {**result, "state": states}

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


def paged(name: str, groups: Groups) -> torch.optim.Optimizer:
    """Return a paged AdamW of bitsandbytes whose states stay paged when they are loaded.

    Its own way moves all of them to the device, so that a run which fitted by paging might not go on. Tried with
    buffers that stand in for the driver's; not on a GPU.
    """
    from bitsandbytes import optim

    kind: Any = {"paged_adamw_32bit": optim.PagedAdamW32bit, "paged_adamw_8bit": optim.PagedAdamW8bit}[name]

    class Refilled(kind):  # type: ignore[misc]
        def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = True) -> None:
            """Put back what `state_dict` returned, each state into a buffer as `init_state` makes it."""
            super().load_state_dict(state_dict, move_to_device=False)
            for parameter, state in self.state.items():
                for key, value in state.items():
                    if isinstance(value, torch.Tensor):
                        state[key] = self._placed(parameter, key, value) if move_to_device else value

        def _placed(self, parameter: torch.Tensor, key: str, value: torch.Tensor) -> torch.Tensor:
            if key not in ("state1", "state2"):
                return value.to(parameter.device)
            buffer: torch.Tensor = self.get_state_buffer(parameter, dtype=value.dtype)
            return buffer.copy_(value.view_as(buffer))

    optimizer: torch.optim.Optimizer = Refilled(groups)
    return optimizer
