"""Measurement of one step on fake tensors: live bytes and operations, the layers that were left out included."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from harness.measure.operations import LiveBytes
from harness.plan.fake_model import FakeModel

_CHOOSES = {
    "aten::index.Tensor", "aten::_unsafe_index.Tensor", "aten::index_put", "aten::index_put_",
    "aten::_index_put_impl_", "aten::_unsafe_index_put",
}  # fmt: skip


class Follower(LiveBytes):
    """LiveBytes for fake tensors.

    Fake tensors have no values. A boolean mask selects `num_chosen` positions. A test of a boolean tensor (is this mask
    all ones?) gives True, as for rows of equal length. With `padded` rows it gives False, so that the memory of the
    mask is counted.
    """

    def __init__(self, num_chosen: int, padded: bool = False) -> None:
        super().__init__()
        self._num_chosen, self._padded = num_chosen, padded
        self._twins: dict[int, Any] = {}  # storage address -> the same bytes in the left-out layers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on shapes."""
        kwargs = kwargs or {}
        name = func.name()
        if name.startswith("prim::"):
            return func(*args, **kwargs)
        if name == "aten::_local_scalar_dense":
            return not self._padded if args[0].dtype is torch.bool else 1
        if name in _CHOOSES:
            args = (args[0], self._positions(args[1]), *args[2:])
        return super().__torch_dispatch__(func, types, args, kwargs)

    def hold_bytes(self, num_bytes: int) -> None:
        """Count the bytes of weights that have no tensors here."""
        self._begin(num_bytes, "weights")

    @contextlib.contextmanager
    def standing_for_others(self, model: FakeModel) -> Iterator[None]:
        """Count the operations and bytes of the middle layer for the left-out layers as well, during one step.

        The left-out layers keep the same activations as the middle layer, and free them when it does. They get their
        gradients when its backward pass ends.
        """
        if not model.repeats:
            yield
            return
        forward = _Once(lambda: self._open(model.repeats), self._end_forward)
        backward = _Once(lambda: self._open(model.repeats), lambda: self._end_backward(model))

        def enters(which: int) -> Any:
            def hook(_: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
                hidden = inputs[0] if inputs else named["hidden_states"]
                if not forward.reach(which):
                    return  # a recomputation
                if hidden.requires_grad:
                    hidden.register_hook(lambda _: backward.reach(1 - which) and None)
                elif which:
                    self._end_twins()  # nothing below trains, so a layer's inputs are freed when the next layer runs

            return hook

        hooks = [model.layers[1 + i].register_forward_pre_hook(enters(i), with_kwargs=True) for i in (0, 1)]
        try:
            yield
        finally:
            self._times = 1
            for hook in hooks:
                hook.remove()

    def _open(self, repeats: int) -> None:
        self._times, self._since = 1 + repeats, self._now

    def _end_forward(self) -> None:
        for key, life in list(self._known.items()):
            if life.born > self._since:
                self._twins[key] = self._begin((self._times - 1) * life.num_bytes, life.kind)
        self._times = 1

    def _end_twins(self) -> None:
        for twin in self._twins.values():
            self._end(twin)
        self._twins.clear()

    def _end_backward(self, model: FakeModel) -> None:
        give_gradients(model.unseen_trained)
        self._times = 1

    def _gone(self, key: int, _: Any) -> None:
        super()._gone(key, _)
        twin = self._twins.pop(key, None)
        if twin is not None:
            self._end(twin)

    def _positions(self, indices: Any) -> list[Any]:
        """Replace each boolean mask by one list of positions per dimension of the mask."""
        positions: list[Any] = []
        for index in indices:
            masks = index is not None and index.dtype is torch.bool
            chosen = [torch.empty(self._num_chosen, dtype=torch.long)] * index.dim() if masks else [index]
            positions += chosen
        return positions


def give_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Give each parameter that has no gradient an empty one."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)


class _Once:
    """Two points of a step, passed once each and in order. A second pass is a recomputation and changes nothing."""

    def __init__(self, first: Any, second: Any) -> None:
        self._todo = [first, second]
        self._next = 0

    def reach(self, which: int) -> bool:
        if which != self._next:
            return False
        self._todo[which]()
        self._next += 1
        return True
