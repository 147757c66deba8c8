"""`sweeps/published/`: known studies as question files, each composed and planned, none claimed as run.

`GOLDEN=write` writes the page of plans again, which takes minutes.
"""

import dataclasses
import os
import re
from pathlib import Path

import pytest
import yaml

from harness.config.compose import experiments
from harness.config.sweep_file import read
from harness.config.task_sets import expanded
from harness.plan import cost
from harness.plan.__main__ import _elsewhere
from harness.plan.devices import named

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "sweeps" / "published"
FILES = sorted(FOLDER.glob("*.yaml"))
PAGE = FOLDER / "README.md"
DEVICE, MFU, PRICE = "h100", 0.4, 2.5
STUDIES = {
    "lora_learns_less", "lora_without_regret", "learning_rate_matters", "dora_commonsense", "qlora_guanaco",
    "peft_metamath",
}  # fmt: skip
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def question_of(path):
    return read(yaml.safe_load(path.read_text()))


def test_the_studies_are_there():
    assert {path.stem for path in FILES} == STUDIES


@each_file
def test_a_study_states_paper_data_numbers_claims_and_faults_with_their_sources(path):
    question = question_of(path)
    study = question.study
    assert study.paper
    assert study.read
    assert study.data.name
    assert study.faults
    assert study.not_expressed
    assert all(number.source and number.basis in ("read", "excerpt", "memory") for number in study.published)
    assert question.claims
    assert all(claim.source for claim in question.claims)
    assert any(number.value is not None for number in study.published)


@each_file
def test_a_study_is_not_claimed_as_run(path):
    question = question_of(path)
    assert "Nothing of it was run here." in " ".join(path.read_text().replace("\n# ", " ").split())
    assert not (ROOT / "reports" / question.name).exists()
    assert not (ROOT / "sweeps" / f"{question.name}.registration.json").exists()


@each_file
def test_every_cell_of_a_study_composes(path):
    question = question_of(path)
    cells = experiments([f"sweep=published/{path.stem}"])
    assert len(cells) >= len(question.cells)
    models = {experiment.model.name for _, experiment in cells}
    assert len(models) == 1
    tasks = {task for _, experiment in cells for task in expanded(experiment.eval).tasks}
    named_tasks = {m[1] for claim in question.claims if (m := re.search(r" on ([^\s/]+)/", claim.claim))}
    assert {*named_tasks} <= tasks
    final = question.stages.final_seeds if question.stages else {experiment.seed for _, experiment in cells}
    assert len(final) >= 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda study: study.update(papers="x"), "unknown study.papers"),
        (lambda study: study.pop("faults"), "study.faults is missing"),
        (lambda study: study["published"][0].update(basis="guessed"), "guessed"),
        (lambda study: study["published"][0].update(vlaue=1), "unknown study.published.0.vlaue"),
        (lambda study: study["data"].update(rows=0), "study.data.rows=0"),
    ],
)
def test_a_wrong_study_is_named_with_its_place(change, words):
    values = yaml.safe_load(FILES[0].read_text())
    change(values["study"])
    with pytest.raises(ValueError, match=re.escape(words)):
        read(values)


def runs_of(question, experiment) -> int:
    """How often a cell is run: each trial once for each tuning seed; what is chosen is counted apart."""
    return len(question.stages.tune.seeds) if question.stages else 1


def step_of(experiment):
    """One micro batch of the experiment, with what it does not depend on left out: equal ones are planned once."""
    rows = experiment.train.micro_batch_size
    train = dataclasses.replace(
        experiment.train, lr=1e-4, epochs=None, max_steps=100, warmup_steps=0.0, global_batch_size=rows
    )
    method = dataclasses.replace(experiment.method, lr=1e-4)
    return dataclasses.replace(experiment, train=train, method=method, seed=0, lr_scale=1.0)


def line_of(path) -> str:
    question = question_of(path)
    composed = [experiment for _, experiment in experiments([f"sweep=published/{path.stem}"])]
    steps = list({repr(step): step for step in map(step_of, composed)}.values())
    device = named(DEVICE)
    plans = dict(zip(map(repr, steps), _elsewhere("harness.plan.predict:cells", steps, device, None), strict=True))
    peaks = [plan["peak_bytes"] / 2**30 for plan in plans.values() if not plan["unpredicted"]]
    hours, contestants, unknown = 0.0, set(), 0
    for experiment in composed:
        plan = plans[repr(step_of(experiment))]
        micro_batches = experiment.train.global_batch_size // experiment.train.micro_batch_size
        seconds = micro_batches * plan["flops"] / (device.flops_per_second * MFU) if plan["flops"] else None
        basis = cost.Basis(question.study.data.rows, PRICE)
        made = cost.of_plan({"step_seconds": seconds}, experiment, basis)
        unknown += made["hours"] is None
        contestant = (repr(step_of(experiment)), experiment.train.epochs)
        first = contestant not in contestants
        contestants.add(contestant)
        final = len(question.stages.final_seeds) if question.stages and first else 0
        hours += (made["hours"] or 0.0) * (runs_of(question, experiment) + final)
    number = len(composed) * runs_of(question, composed[0])
    number += len(contestants) * len(question.stages.final_seeds) if question.stages else 0
    fits = (
        "all"
        if all(plan["fits"] for plan in plans.values())
        else f"{sum(bool(p['fits']) for p in plans.values())} of {len(plans)}"
    )
    amounts = ["-", "-"] if unknown else [f"{hours:,.0f}", f"{hours * PRICE:,.0f}"]
    cells = [path.stem, composed[0].model.name, str(number), f"{min(peaks):.1f} to {max(peaks):.1f}", fits, *amounts]
    return f"| {' | '.join(cells)} |"


HEAD = f"""# Published studies as questions

Each file repeats a published study as far as a file can say it: `harness -m sweep=published/NAME`. `study` holds the
paper, its data, its numbers, known faults of the original and what the file cannot express, each from a source that was
read or marked as not checked. **None of them was run here.** The plans are those of `harness plan
sweep=published/NAME device={DEVICE} rows=... price=...`: peak memory of a training step, and the hours of training at
{MFU:.0%} of the device's peak with every row as long as `train.max_length`, an upper limit; evaluation is not in them.
A device hour is taken to cost {PRICE}. Unknown is `-`: the number of rows was not published, or not read.

| File | Model | Runs | Peak, GiB | Fit on {DEVICE} | Hours | Price |
| :-- | :-- | --: | --: | --: | --: | --: |
"""


@pytest.mark.slow
@each_file
def test_a_study_is_planned(path):
    line = line_of(path)
    if os.environ.get("GOLDEN") == "write":
        others = PAGE.read_text().splitlines()[len(HEAD.splitlines()) :] if PAGE.is_file() else []
        lines = {one.split(" | ")[0]: one for one in (*others, line)}
        PAGE.write_text(HEAD + "".join(f"{lines[name]}\n" for name in sorted(lines)))
    assert line in PAGE.read_text().splitlines()


@each_file
def test_the_number_of_runs_in_a_file_is_that_of_the_page(path):
    text = " ".join(path.read_text().replace("\n# ", " ").split())
    [line] = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| {path.stem} |")]
    assert f"{line.split(' | ')[2]} runs" in text


def test_the_page_has_a_plan_of_each_study():
    text = PAGE.read_text()
    assert text.startswith(HEAD)
    names = [line.split(" | ")[0].removeprefix("| ") for line in text.removeprefix(HEAD).splitlines()]
    assert names == sorted(STUDIES)


def test_steps_follow_from_rows_or_are_stated():
    [(_, guanaco), *_] = experiments(["sweep=published/qlora_guanaco", "seed=0"])
    assert cost.steps(guanaco, None) == 1875
    [(_, lora), *_] = experiments(["sweep=published/lora_learns_less", "seed=0", "train.epochs=2"])
    assert cost.steps(lora, None) is None
    rows = 395_000 * (1 - lora.data.validation_fraction)
    assert cost.steps(lora, 395_000) == 2 * -(-int(rows) // 768)
    made = cost.of_plan({"step_seconds": 36.0}, guanaco, cost.Basis(None, 2.0))
    assert made == {"steps": 1875, "hours": pytest.approx(18.75), "price": pytest.approx(37.5)}
    assert cost.of_plan(None, guanaco, cost.Basis(None, 2.0))["hours"] is None
