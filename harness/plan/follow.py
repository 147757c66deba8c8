"""Follows a step on fake tensors: bytes alive, operations, and what the layers would add that are not there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from harness.measure.live import LiveBytes
from harness.plan.fakes import FakeModel

_CHOOSES = {
    "aten::index.Tensor", "aten::_unsafe_index.Tensor", "aten::index_put", "aten::index_put_",
    "aten::_index_put_impl_", "aten::_unsafe_index_put",
}  # fmt: skip


class Follower(LiveBytes):
    """LiveBytes for fake tensors.

    Fake tensors have no values: a boolean mask chooses `num_chosen` positions. A question that the code asks of a
    boolean tensor (is this mask all ones?) is answered with yes, which is true of rows of one length; with no where
    some rows are `padded`, so that what a mask takes is counted.
    """

    def __init__(self, num_chosen: int, padded: bool = False) -> None:
        super().__init__()
        self._num_chosen, self._padded = num_chosen, padded
        self._twins: dict[int, Any] = {}  # by a storage's address: what the other layers keep for as long

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
        """Count weights that are not there."""
        self._begin(num_bytes, "weights")

    @contextlib.contextmanager
    def standing_for_others(self, model: FakeModel) -> Iterator[None]:
        """Within: what one step computes in the middle layer is counted for the layers left out as well.

        What it keeps of its forward pass, theirs keep; it is freed when its own is. What its backward pass leaves are
        gradients, which theirs get when its own are there.
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
                    return  # computed again
                if hidden.requires_grad:
                    hidden.register_hook(lambda _: backward.reach(1 - which) and None)
                elif which:
                    self._end_twins()  # nothing below trains: a layer's inputs are gone with the next one's

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
        """A mask over some dimensions as that many lists of positions."""
        found: list[Any] = []
        for index in indices:
            masks = index is not None and index.dtype is torch.bool
            chosen = [torch.empty(self._num_chosen, dtype=torch.long)] * index.dim() if masks else [index]
            found += chosen
        return found


def give_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """A gradient for each parameter that has none."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)


class _Once:
    """Two points in a step, passed in their order and each once: what comes again is a recomputation."""

    def __init__(self, first: Any, second: Any) -> None:
        self._todo = [first, second]
        self._next = 0

    def reach(self, which: int) -> bool:
        if which != self._next:
            return False
        self._todo[which]()
        self._next += 1
        return True
