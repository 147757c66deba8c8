"""The whole command on a machine with cards that have no kernels: every decision, up to the first tensor on a card."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from fake_machines import Cards, card
from torch.nn.attention import SDPBackend

from harness.records import record
from harness.records.record import RunRecord

ROOT = Path(__file__).parents[1]
TWO = ("launch.num_processes=2", "train.micro_batch_size=2", "train/oom=none")
SLICES = [
    {"uuid": f"MIG-{n}a345678-1234-1234-1234-123456789012", "name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
     "capability": [9, 0], "memory_bytes": 10 * 2**30}
    for n in (1, 2)
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Done:
    """A command that is over, with its records and the processes that touched CUDA."""

    out: str
    records: list[RunRecord]
    touches: list[dict]
    logs: str

    def reasons(self) -> dict[str, str]:
        return {one.method: one.current.reason for one in self.records}

    def saw(self) -> list[str | None]:
        """CUDA_VISIBLE_DEVICES of each process that initialized CUDA."""
        processes = {touch["pid"]: touch["visible"] for touch in self.touches if touch["what"] == "init"}
        assert {touch["order"] for touch in self.touches} == {"PCI_BUS_ID"}
        return sorted(processes.values(), key=str)

    def parents(self) -> set[int]:
        """Parents of the processes that touched CUDA: the server, and who forked others to train together."""
        return {touch["parent"] for touch in self.touches if touch["what"] != "cuInit"}


@pytest.fixture
def command(tiny_overrides, tmp_path):
    """Run the command on a machine, below this test's folder."""

    def run(machine: Cards, *words: str, **variables: str) -> Done:
        settings = [*tiny_overrides, "train.precision=auto"]
        done = subprocess.run(
            [sys.executable, "-m", "harness", *settings, *words], env={**machine.environment, **variables},
            capture_output=True, text=True, cwd=ROOT, timeout=500, check=False,
        )  # fmt: skip
        found = [record.read(RunRecord, path) for path in record.find_runs(tmp_path / "runs")]
        logs = "".join(path.read_text() for path in (tmp_path / "runs").glob("*/seed-*/log*.txt"))
        return Done(done.stdout + done.stderr, found, machine.touches(), logs)

    return run


def ended_at_the_first_kernel(done: Done, *methods: str) -> None:
    """The model was about to be read to a card, which is where this torch and this machine have none."""
    assert set(done.reasons()) == set(methods), done.out
    for one in done.records:
        assert (one.status, one.current.ended_in) == ("failed", "load"), one.current.reason
        assert one.current.provenance["device"] == "cuda"
    assert "in from_pretrained" in done.logs, done.logs
    assert "Cannot re-initialize CUDA" not in done.logs


def test_the_demo_goes_as_far_as_the_first_kernel(cards, command):
    done = command(cards(card(0), card(1, 48)), "-m", "method=full,lora,qlora")
    ended_at_the_first_kernel(done, "base", "full", "lora", "qlora")
    assert "bf16 on cuda" in done.out
    assert "plan for this GPU" in done.out
    assert done.saw() == ["0"] * 4, "one process sees one card; neither plan nor check touches one"
    servers = done.parents()
    assert len(servers) == 1, "all are forked from one server"
    assert not servers & {touch["pid"] for touch in done.touches}, "which has not touched CUDA"
    for one in done.records:
        device = one.current.provenance
        assert (device["device"], device["device_name"], device["device_memory_bytes"]) == (
            "cuda", "NVIDIA H100 80GB HBM3", 80 * 2**30,
        )  # fmt: skip
        assert (device["device_uuid"], device["driver"]) == (card(0)["uuid"], "580.65.06")
        assert device["device_settings"]["CUDA_VISIBLE_DEVICES"] == "0"
        assert set(device["attention_order"]) <= {name.lower() for name in SDPBackend.__members__}
        assert {"math", "flash_attention"} <= set(device["attention_order"])
        assert one.recipe["train"] is None or one.recipe["train"]["precision"] == "bf16"
    assert next(one for one in done.records if one.method == "full").recipe["method"]["precision"] == "bf16_fp32_master"


def test_several_processes_train_on_as_many_cards(cards, command):
    done = command(cards(card(0), card(1), card(2)), "method=lora", *TWO)
    ended_at_the_first_kernel(done, "base", "lora")
    assert done.saw() == ["0", "0,1", "0,1"], "the third card is not theirs"


def test_runs_at_once_have_a_card_each(cards, command):
    done = command(cards(card(0), card(1)), "-m", "method=lora", "seed=0,1,2", "hydra/launcher=local")
    assert len(done.records) == 4
    ended_at_the_first_kernel(done, "base", "lora")
    assert set(done.saw()) == {"0", "1"}
    assert not done.parents() & {touch["pid"] for touch in done.touches}


@pytest.mark.parametrize("visible", [None, SLICES[1]["uuid"]])
def test_a_divided_card_without_nvml_is_forked_to_as_any_other(cards, command, visible):
    machine = cards(card(0, slices=SLICES), nvml=False)
    variables = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    done = command(machine, "-m", "method=lora", **variables)
    ended_at_the_first_kernel(done, "base", "lora")
    assert "plan for this GPU: 9.0" in done.out, "95 % of a slice of 10 GiB, less CUDA's context"
    assert done.saw() == [visible, visible]
    assert not done.parents() & {touch["pid"] for touch in done.touches}


def test_a_library_that_touches_cuda_at_import_costs_the_fork_and_no_run(cards, command):
    machine = cards(card(0), card(1), asks_at_import=True)
    ended_at_the_first_kernel(command(machine, "method=lora"), "base", "lora")


def test_others_are_not_forked_from_a_process_that_has_touched_cuda(cards, command):
    machine = cards(card(0), card(1), asks_at_import=True)
    done = command(machine, "method=lora", *TWO)
    assert "this process has initialized CUDA, and its forks could not use a GPU" in done.reasons()["lora"]
