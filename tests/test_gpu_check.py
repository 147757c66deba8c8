"""`make gpu-check`: it runs through on a CPU, every check can fail, and what it writes is a function of the results."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_machines import card

from harness.measure import hardware
from harness.plan.devices import Device
from harness.records import record
from harness.records.record import Attempt, DevicePeak, Phase, RunRecord, StepProfile, Training
from harness.run import isolate
from tests.bench import Row, gpu
from tests.bench import __main__ as bench
from tests.bench.gpu_check import Check, Skipped, checks, command, page, verdict_of
from tests.bench.gpu_check.lab import CARD, METHODS, TINY, Lab

GIB = 2**30
ROOT = Path(__file__).parents[1]
LOSSES = (5.0, 4.5, 4.0)
PEAK = 10 * GIB
NAMES = [check.name for check in checks.CHECKS]


def made(*changes, status="ok", losses=LOSSES, **attempt):
    """A run's record as a card leaves it, with other facts in its last attempt."""
    profile = StepProfile(step=2, micro_batches=((8, 512),), flops=10**12, live_peak_bytes=PEAK, live_bytes={})
    training = Training(
        step_seconds=(1.0,) * 3, real_tokens=(10,) * 3, padded_tokens=(10,) * 3, trained_tokens=(10,) * 3,
        losses=losses, gradient_norms=(1.0,) * 3, learning_rates=(1.0,) * 3, validation=(), warmup_steps_dropped=2,
        tokens_per_second=50_000.0, train_seconds=3.0, profile=profile, mfu=0.4,
        device_peak=DevicePeak(flops_per_second=7e14, dtype="bfloat16", source="measured"),
    )  # fmt: skip
    usual = Phase(seconds=1.0, peak_memory_bytes=PEAK, peak_reserved_bytes=PEAK, resident_bytes=GIB)
    facts = {
        "phases": {"load": usual, "train": usual}, "training": training, "provenance": {"num_processes": 1},
        "micro_batch_size": 8, **attempt,
    }  # fmt: skip
    last = Attempt(
        started_at="2026-01-01", status=status, reason="" if status == "ok" else "it broke", data=None,
        fingerprint=None, peak_memory_bytes=PEAK, weights_from=None, seconds=9.0, **facts,
    )  # fmt: skip
    return RunRecord(
        schema=record.SCHEMA, recipe_id="0" * 8, seed=0, method="lora", recipe={}, config={}, attempts=(*changes, last)
    )


def trained(**changes):
    """A record with other facts about its training."""
    return made(training=dataclasses.replace(made().training, **changes))


MACHINE = {
    "sum": 3.0, "bad_fork": False, "devices": 1, "free_bytes": 23 * GIB, "memory_bytes": 24 * GIB,
    "name": "Some GPU", "began": 0.0, "cuda": "13.0", "cudnn": 91900, "driver": "580.65.06", "lacks": "",
}  # fmt: skip
SIDE = {
    "real_share": 1.0, "peak_bytes": PEAK, "flops_per_position": 1e9, "device_flops_per_second": 7e14, "doubt": "",
}  # fmt: skip
HEALTHY = {
    "machine": MACHINE,
    "rates": [("bfloat16", 7e14)] * 8,
    "steps": {
        "uncast_equal": True, "unmasked_loss": 1e-4, "unmasked_gradients": 1e-3,
        "seconds": {"usual": 1.2, "unmasked, uncast": 1.0},
    },
    "likelihoods": {"nats": 1e-4, "shared_context": True, "shared_prefix": True},
    "harness": {**SIDE, "tokens_per_second": 60_000.0},
    "trl": {**SIDE, "tokens_per_second": 40_000.0},
    "oom": made(made(status="oom").current, micro_batch_size=4),
    "resumed": made(resumed_at_step=20),
    "plan": {"peak_bytes": PEAK, "unpredicted": None},
}  # fmt: skip


class Card(Lab):
    """A card with answers that are given, by what is asked for; those of a run by a word of its settings."""

    def __init__(self, folder, **answers):
        super().__init__(folder, CARD)
        object.__setattr__(self, "answers", {**HEALTHY, **answers})

    def experiment(self, *words):
        return None

    def run(self, *words):
        return next((self.answers[word] for word in reversed(words) if word in self.answers), made())

    def run_in_little_memory(self, *words):
        return self.answers["oom"]

    def run_interrupted(self, at_step, *words):
        return self.answers["resumed"]

    def call(self, function, *arguments):
        answer = self.answers[arguments[0] if function == "side" else function]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, list) and answer and isinstance(answer[0], dict):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        return {**answer, "began": answer["began"] + time.time()} if function == "machine" else answer

    def call_as_a_run(self, function, *arguments):
        return self.call(function, *arguments)

    @property
    def plans(self):
        return dict.fromkeys(METHODS, self.answers["plan"])

    @property
    def device(self):
        return Device("this GPU", self.answers.get("nvml", 24 * GIB), None, on_gpu=True)

    @property
    def mixed_data(self):
        return "mixed"


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(hardware, "device_names", lambda: ["0", "1"])
    monkeypatch.setattr(checks, "find_spec", lambda name: True)
    monkeypatch.setattr(isolate, "_forks_can_use_cuda", True)
    unsloth = {**SIDE, "tokens_per_second": 50_000.0}
    monkeypatch.setattr(gpu, "measured", lambda side, steps, words: unsloth)
    return unsloth


def result(name, lab):
    [check] = [check for check in checks.CHECKS if check.name == name]
    [found] = command.made([check], lab)
    return found


TWO = made(provenance={"num_processes": 2})
DDP, FSDP = "launch.sharding=none", "launch.sharding=fsdp"


@pytest.mark.parametrize("name", NAMES)
def test_a_healthy_card_passes(name, tmp_path, two_gpus):
    found = result(name, Card(tmp_path, **{DDP: TWO, FSDP: TWO}))
    assert found.verdict == "PASS", found


def memory(name, words):
    chosen = words[-1] if name == "lora-fp32" else words[0]
    return [
        (name, {chosen: made(status="failed")}),
        (name, {"plan": {"peak_bytes": int(1.06 * PEAK), "unpredicted": None}}),
        (name, {"plan": {"peak_bytes": int(0.94 * PEAK), "unpredicted": None}}),
        (name, {"plan": {"peak_bytes": None, "unpredicted": "TypeError: no"}}),
        (name, {chosen: trained(losses=(4.0, 4.5, 5.0))}),
        (name, {chosen: trained(mfu=1.2)}),
        (name, {chosen: trained(profile=None)}),
    ]


FAULTS = [
    ("machine", {"machine": {**MACHINE, "sum": 0.0}}),
    ("machine", {"machine": {**MACHINE, "free_bytes": 12 * GIB}}),
    ("machine", {"nvml": 0}),
    ("machine", {"machine": {**MACHINE, "driver": None}}),
    ("machine", {"machine": {**MACHINE, "lacks": "training on a GPU compiles Triton's launcher"}}),
    ("machine", {"machine": RuntimeError("Cannot re-initialize CUDA in forked subprocess")}),
    ("fork", {"machine": {**MACHINE, "bad_fork": True}}),
    ("fork", {"machine": {**MACHINE, "began": 9.0}}),
    ("fork", {"machine": {**MACHINE, "sum": 0.0}}),
    ("isolation", {"machine": {**MACHINE, "devices": 2}}),
    ("isolation", {"method=lora": made(status="failed")}),
    ("isolation", {"machine": [MACHINE, {**MACHINE, "free_bytes": 20 * GIB}]}),
    ("peak", {"rates": [*[("bfloat16", 7e14)] * 7, ("float32", 5e13)]}),
    ("base", {"method=base": made(status="failed")}),
    ("base", {"method=base": made(phases={"load": dataclasses.replace(made().measured.phases["load"],
                                                                      peak_memory_bytes=None)})}),
    *(fault for name, words in METHODS.items() for fault in memory(name, words)),
    ("shapes", {"train.micro_batch_size=1": made(status="failed")}),
    ("shapes", {"data.file=mixed": trained(tokens_per_second=20_000.0)}),
    ("shapes", {"data.file=mixed": made(status="failed", training=None)}),
    ("step", {"steps": {**HEALTHY["steps"], "uncast_equal": False}}),
    ("step", {"steps": {**HEALTHY["steps"], "unmasked_loss": 0.01}}),
    ("step", {"steps": {**HEALTHY["steps"], "unmasked_gradients": 0.2}}),
    ("step", {"steps": {**HEALTHY["steps"], "seconds": {"usual": 0.8, "unmasked, uncast": 1.0}}}),
    ("scores", {"likelihoods": {**HEALTHY["likelihoods"], "nats": 0.1}}),
    ("scores", {"likelihoods": {**HEALTHY["likelihoods"], "shared_prefix": False}}),
    ("out-of-memory", {"oom": made()}),
    ("out-of-memory", {"oom": made(made(status="oom").current, status="oom", micro_batch_size=4)}),
    ("out-of-memory", {"oom": made(made(status="oom").current)}),
    ("preemption", {"resumed": made()}),
    ("preemption", {"resumed": made(status="failed", resumed_at_step=20)}),
    ("preemption", {"resumed": made(resumed_at_step=20, training=trained(losses=(5.0, 4.5, 3.9)).training)}),
    ("preemption", {"resumed": made(resumed_at_step=20, training=trained(losses=(5.0, 4.5)).training)}),
    ("speed-trl", {"trl": {**SIDE, "tokens_per_second": 61_000.0}}),
    ("speed-trl", {"trl": RuntimeError("SFTTrainer does not support nn.DataParallel")}),
    ("speed-unsloth", {"harness": {**SIDE, "tokens_per_second": 40_000.0}}),
    ("two-ddp", {DDP: made()}),
    ("two-ddp", {DDP: made(provenance={"num_processes": 2}, status="failed")}),
    ("two-fsdp", {FSDP: made(provenance={"num_processes": 2},
                             training=trained(losses=(5.0, 4.5, 4.1)).training)}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(FAULTS)])
def test_a_fault_fails_its_check(name, fault, tmp_path, two_gpus):
    found = result(name, Card(tmp_path, **{DDP: TWO, FSDP: TWO, **fault}))
    assert found.verdict == "FAIL", found


def test_every_check_has_a_fault():
    assert len(NAMES) == len(set(NAMES)) == 21
    assert {name for name, _ in FAULTS} == set(NAMES)


def test_an_old_torch_and_a_server_that_cannot_be_forked_fail(tmp_path, two_gpus, monkeypatch):
    with monkeypatch.context() as old:
        old.setattr(checks.metadata, "version", lambda name: "2.7.1")
        assert result("machine", Card(tmp_path)).verdict == "FAIL"
    monkeypatch.setattr(isolate, "_forks_can_use_cuda", False)
    assert result("fork", Card(tmp_path)).verdict == "FAIL"


def test_what_the_machine_lacks_is_skipped_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "device_names", lambda: ["0"])
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    for name, reason in (("two-ddp", "needs two GPUs"), ("two-fsdp", "needs two GPUs"), ("speed-unsloth", "unsloth")):
        found = result(name, Card(tmp_path))
        assert found.verdict == "SKIP"
        assert reason in found.reason
    large = Card(tmp_path, plan={"peak_bytes": 30 * GIB, "unpredicted": None})
    assert result("full", large).verdict == "SKIP"


PLANS = """
import dataclasses, json, sys
from pathlib import Path
from tests.bench.gpu_check.lab import TINY, Lab
lab = Lab(Path(sys.argv[1]), dataclasses.replace(TINY, device="cuda", precision="bf16"))
print(json.dumps({name: plan["unpredicted"] for name, plan in lab.plans.items()}))
"""


def test_the_plans_are_made_without_the_card(cards, tmp_path):
    """Fake tensors claim to be on the CPU: beside a card the trainer would move their batch away from the model."""
    machine = cards(card(0))
    done = subprocess.run(
        [sys.executable, "-c", PLANS, str(tmp_path)],
        env=machine.environment, capture_output=True, text=True, cwd=ROOT, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    unpredicted = json.loads(done.stdout.splitlines()[-1])
    assert unpredicted.keys() == METHODS.keys()
    assert {name: reason for name, reason in unpredicted.items() if reason} == {}
    assert not [touch for touch in machine.touches() if touch["what"] == "init"]


def test_a_check_without_a_bar_or_with_a_bar_that_has_no_number_fails():
    no_bar, no_number = (Row(name="a", measured=m, bar=b, unit="") for m, b in ((1.0, None), (None, 1.0)))
    good = Row(name="a", measured=1.0, bar=1.0, unit="")
    assert [verdict_of(rows) for rows in ([], [no_bar], [good, no_number], [good, no_bar])] == [
        "FAIL", "FAIL", "FAIL", "PASS",
    ]  # fmt: skip


def test_an_error_fails_one_check_and_lateness_skips_it(tmp_path, capsys):
    def broken(lab):
        yield Row(name="before", measured=1.0, bar=1.0, unit="")
        raise RuntimeError("first line\nsecond")

    def absent(lab):
        raise Skipped("no card")

    def good(lab):
        return [Row(name="ratio", measured=2.0, bar=1.0, unit="x", note="how", at_most=False)]

    three = [Check(name=f.__name__, expected="It holds.", rows=f) for f in (broken, absent, good)]
    lab = Lab(tmp_path, TINY)
    found = list(command.printed(command.made(three, lab)))
    assert [one.verdict for one in found] == ["FAIL", "SKIP", "PASS"]
    assert found[0].reason == "RuntimeError: first line second"
    assert len(found[0].rows) == 1
    out = capsys.readouterr().out
    assert "PASS good" in out
    assert "ratio: 2 x, expected at least 1: yes (how)" in out
    assert "no card" in out
    assert [one.verdict for one in command.made(three, lab, budget_seconds=-1.0)] == ["SKIP"] * 3


def test_results_so_far_are_kept_where_no_process_can_use_the_device_and_the_command_is_ended(tmp_path, monkeypatch):
    """A machine that is lent for minutes may be gone before the last check."""

    def good(lab):
        return [Row(name="ratio", measured=2.0, bar=1.0, unit="x", at_most=False)]

    def ended(lab):
        raise KeyboardInterrupt

    def broken(lab, function, *arguments):
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    two = tuple(Check(name=f.__name__, expected="It holds.", rows=f) for f in (good, ended))
    monkeypatch.setattr(checks, "CHECKS", two)
    monkeypatch.setattr(Lab, "call", broken)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as the command sets it, and gone after the test
    with pytest.raises(KeyboardInterrupt):
        command.main(["--out", str(tmp_path)])
    content = json.loads((tmp_path / "cpu.json").read_text())
    assert [(check["name"], check["verdict"]) for check in content["checks"]] == [("good", "PASS")]
    assert content["memory_bytes_of_device"] is None
    assert "| good | PASS |" in (tmp_path / page.PAGE).read_text()


def test_a_card_that_torch_is_not_built_for_is_named(monkeypatch, capsys):
    """Else a page of PASS on a machine with a card would look like the card's."""
    monkeypatch.setattr(hardware, "torch_has_cuda", lambda: False)
    monkeypatch.setattr(hardware, "cards", lambda: (hardware.Card("0", "NVIDIA H200", (9, 0), 139 * GIB),))
    monkeypatch.setattr(checks, "CHECKS", ())
    monkeypatch.setattr(Lab, "call", lambda lab, function: MACHINE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as the command sets it, and gone after the test
    assert command.main([]) == 0
    assert "NVIDIA H200 is not tried" in capsys.readouterr().err


def test_the_page_is_made_of_the_results(tmp_path):
    row = Row(name="ratio", measured=0.5, bar=1.0, unit="x", note="a | b", at_most=False)
    one = command._result(Check(name="speed", expected="Fast.", rows=lambda lab: [row]), Lab(tmp_path, TINY), False)
    assert "Prepared, not yet run on a GPU" in page.page(tmp_path)
    about = {**MACHINE, "name": "NVIDIA H200 (MIG 1g.18gb)"}
    file = page.keep(tmp_path, about, [one], 12.0)
    assert file.name == "nvidia-h200-mig-1g-18gb.json"
    content = json.loads(file.read_text())
    assert content["checks"][0]["verdict"] == "FAIL"
    assert content["checks"][0]["rows"][0]["met"] is False
    text = (tmp_path / page.PAGE).read_text()
    assert text == page.page(tmp_path)
    assert "not yet run" not in text
    assert "## NVIDIA H200 (MIG 1g.18gb)" in text
    assert "| **FAIL** |" in text
    assert "| ratio | 0.5 x | at least 1 | **no** | a \\| b |" in text


def test_the_committed_page_is_that_of_the_committed_results():
    assert (command.OUT / page.PAGE).read_text() == page.page(command.OUT)


def test_a_check_that_is_not_there_is_refused(capsys):
    assert bench.main(["gpu-check", "nosuch"]) == 2
    assert "there are machine, fork" in capsys.readouterr().err


def test_all_checks_run_through_on_a_cpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as the command sets it, and gone after the test
    assert hardware.device() == "cpu"
    assert bench.main(["gpu-check", "--out", str(tmp_path)]) == 0, capsys.readouterr().out
    verdicts = {check["name"]: check["verdict"] for check in json.loads((tmp_path / "cpu.json").read_text())["checks"]}
    assert list(verdicts) == NAMES
    assert [name for name, verdict in verdicts.items() if verdict != "PASS"] == ["speed-unsloth"]
    assert "Prepared, not yet run on a GPU" in Path(tmp_path / page.PAGE).read_text()
