"""Seconds and tokens of each optimizer step, without the pauses between them."""

from __future__ import annotations

import time
from typing import Any

from harness.record import Training

WARMUP_STEPS = 2  # the first steps allocate, fill caches and pick kernels


class StepMeter:
    """Counts what a training loop did, step by step.

    Tokens are kept as tensors until the end: reading one off a GPU at every step would make it wait.
    """

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._tokens: list[list[tuple[Any, int, Any]]] = [[]]  # per step, per micro batch: real, padded, trained
        self._mark = 0.0

    def start(self) -> None:
        """Begin, or go on after a pause: what came before is not a step's time."""
        self._mark = time.perf_counter()

    def micro_batch(self, attention_mask_BT: Any, labels_BT: Any) -> None:  # shape suffixes: batch, tokens
        """Count one micro batch of the step that is under way."""
        real, trained = attention_mask_BT.sum(), (labels_BT != -100).sum()
        self._tokens[-1].append((real, attention_mask_BT.numel(), trained))

    def end_step(self) -> float:
        """One optimizer step is done; returns its seconds."""
        now = time.perf_counter()
        self._seconds.append(now - self._mark)
        self._tokens.append([])
        self._mark = now
        return self._seconds[-1]

    def tokens_per_second(self) -> float | None:
        """Real tokens per second after the warm-up steps; None before there is any."""
        seconds = sum(self._seconds[WARMUP_STEPS:])
        steps = self._tokens[WARMUP_STEPS : len(self._seconds)]
        tokens = sum(int(real) for step in steps for real, _, _ in step)
        return tokens / seconds if seconds > 0 else None

    def result(self, history: list[dict[str, float]], validation: list[tuple[int, float]]) -> Training:
        """Everything, as the record keeps it.

        Args:
            history: one dictionary per step with loss, grad_norm and learning_rate.
            validation: (step, nats per answer token) pairs.
        """
        steps = self._tokens[: len(self._seconds)]
        return Training(
            step_seconds=tuple(self._seconds),
            real_tokens=tuple(sum(int(real) for real, _, _ in step) for step in steps),
            padded_tokens=tuple(sum(padded for _, padded, _ in step) for step in steps),
            trained_tokens=tuple(sum(int(trained) for _, _, trained in step) for step in steps),
            losses=tuple(entry["loss"] for entry in history),
            gradient_norms=tuple(entry["grad_norm"] for entry in history),
            learning_rates=tuple(entry["learning_rate"] for entry in history),
            validation=tuple(validation),
            warmup_steps_dropped=WARMUP_STEPS,
            tokens_per_second=self.tokens_per_second(),
            train_seconds=sum(self._seconds),
        )
