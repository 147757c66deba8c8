"""Machines with cards that have no kernels, as the fixture `cards` makes them (tests/fake_cards)."""

import json
from dataclasses import dataclass
from pathlib import Path


def card(number: int, memory_gib: int = 80, **more: object) -> dict[str, object]:
    """Describe a card for `cards`: an H100 unless said otherwise, whose UUID begins with its number, twice."""
    return {
        "uuid": f"GPU-{number}{number}345678-1234-1234-1234-123456789012", "name": "NVIDIA H100 80GB HBM3",
        "capability": [9, 0], "memory_bytes": memory_gib * 2**30, **more,
    }  # fmt: skip


@dataclass(frozen=True)
class Cards:
    """A machine with cards that have no kernels, for processes that get its environment (tests/fake_cards)."""

    environment: dict[str, str]
    log: Path

    def touches(self) -> list[dict[str, object]]:
        """Each time that a process touched CUDA: what it called, its pid, its parent's, what it saw."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]
