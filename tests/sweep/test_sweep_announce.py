"""What a sweep says before it starts of runs that are done already."""

from types import SimpleNamespace

import pytest

from harness.measure import hardware
from harness.sweep import messages


@pytest.fixture
def said(monkeypatch):
    """The lines about the devices of four runs, of which the last is still to be made."""

    def lines(here: tuple[str, ...], *made_on: str | None) -> list[str]:
        found: list[str] = []
        cards = tuple(hardware.Card(str(i), name, (9, 0), 1) for i, name in enumerate(here))
        monkeypatch.setattr(hardware, "usable_cards", lambda: cards)
        monkeypatch.setattr(messages.provenance, "facts", lambda: {"cpu": "AMD EPYC 9654"})
        monkeypatch.setattr(messages.board, "say", found.append)
        monkeypatch.setattr(
            messages.state,
            "read",
            lambda number: SimpleNamespace(current=SimpleNamespace(provenance={"device_name": made_on[number]})),
        )
        plan = [SimpleNamespace(identity=(f"recipe{i}", 0), experiment=i) for i in range(len(made_on))]
        messages._devices(plan, plan[-1:])
        return found

    return lines


def test_runs_of_another_device_are_told(said):
    h100 = "NVIDIA H100 80GB HBM3"
    assert said((h100,), "AMD EPYC 9654", "AMD EPYC 9654", h100, "of the run to come") == [
        "made on     AMD EPYC 9654: 2 of those done; force=true makes them again on this machine"
    ]
    assert said((), h100, "AMD EPYC 9654", None) == [
        f"made on     {h100}: 1 of those done; force=true makes them again on this machine"
    ]
    assert said((h100, h100), h100, h100) == []


def test_nothing_is_said_where_runs_are_made_elsewhere(said, monkeypatch):
    monkeypatch.setenv(hardware.RUNS_ON, "cuda")
    assert said((), "NVIDIA H100", "x") == []
