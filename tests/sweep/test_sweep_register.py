"""Registration: what is kept before the first run, with one digest, and what is refused afterwards."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.records import record, registration
from harness.records.registration import Registration
from harness.run import provenance
from harness.sweep.__main__ import main

SWEEP = """
name: asked
question: Does it work?
primary: arc_easy/acc
margin: 0.02
varies: [method]
cells:
  - {method: [lora, full], lr_scale: [0.3, 1, 3]}
stages:
  tune: {settings: [lr_scale], seeds: [0], rule: lowest_validation_loss}
  final: {seeds: {first: 3, most: 5, until: decided}}
claims:
  - lora@best >= full@best - 0.01 on arc_easy/acc
  - {claim: "best_lr(lora) / best_lr(full) in [5, 20]", source: a guide}
"""


@pytest.fixture
def asked(tmp_path, monkeypatch, tiny_overrides):
    """(write a sweep's file, register it) in a working folder that has a `sweeps/` of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    words = [word for word in tiny_overrides if not word.startswith("runs_dir=")]

    def write(text):
        for folder in ("sweeps", "conf/sweep"):
            (tmp_path / folder / "asked.yaml").write_text(text)

    def register(*more):
        return main(["register", "asked", *words, *more, f"hydra.searchpath=[file://{tmp_path}/conf]"])

    write(SWEEP)
    return write, register


def test_everything_that_the_answer_rests_on_is_kept(asked, capsys):
    _, register = asked
    assert register() == 0
    said = capsys.readouterr().out
    file = registration.path(Path("runs"), "asked")
    made = registration.read(file)
    assert made is not None
    assert registration.read(registration.beside("asked")) == made
    assert f"sha256 {made.digest}" in said
    assert [claim.claim for claim in made.claims] == [
        "lora@best >= full@best - 0.01 on arc_easy/acc",
        "best_lr(lora) / best_lr(full) in [5, 20]",
    ]
    assert made.claims[1].source == "a guide"
    assert (made.question, made.primary, made.rule, made.tuned) == (
        "Does it work?", "arc_easy/acc", "lowest_validation_loss", ("lr_scale",),
    )  # fmt: skip
    assert made.margin == 0.02
    assert (made.tuning_seeds, made.final_seeds, made.looks) == ((0,), (1, 2, 3, 4, 5), (3, 5))
    trials = [cell for cell in made.cells if cell.stage == "tune"]
    assert len({cell.recipe_id for cell in trials}) == len(trials) == 6
    assert all(content for content in made.contents.values())
    assert len(made.contents) == 2


def test_a_registration_without_a_secret_of_its_words_is_the_one_that_was_hashed(asked, capsys):
    register = asked[1]
    for expected in ("registered: ", "registered at "):  # the second time it is there already
        assert register("tracking.group=https://me:hunter2secret@host/rows") == 0
        assert expected in capsys.readouterr().out
    made = registration.read(registration.path(Path("runs"), "asked"))
    assert any(word.startswith("tracking.group=") for word in made.arguments)
    assert "hunter2secret" not in json.dumps(made.arguments)


def test_a_file_in_a_folder_below_is_registered_by_its_own_name(asked, tmp_path, tiny_overrides, capsys):
    """Runs look for the registration by the name in the file, which `below/asked` is not."""
    for folder in ("sweeps", "conf/sweep"):
        (tmp_path / folder / "below").mkdir()
        (tmp_path / folder / "below" / "asked.yaml").write_text(SWEEP)
    words = [word for word in tiny_overrides if not word.startswith("runs_dir=")]
    assert main(["register", "below/asked", *words, f"hydra.searchpath=[file://{tmp_path}/conf]"]) == 0
    made = registration.read(registration.path(Path("runs"), "asked"))
    assert made is not None
    assert registration.read(registration.beside("asked")) == made


def test_the_same_again_changes_nothing_and_another_is_refused(asked, capsys):
    write, register = asked
    assert register() == 0
    first = registration.path(Path("runs"), "asked").read_bytes()
    assert register() == 0
    assert "registered at" in capsys.readouterr().out
    write(SWEEP.replace("- 0.01", "- 0.05"))
    assert register() == 2
    assert "a changed question is a new one: give it another name" in capsys.readouterr().err
    assert registration.path(Path("runs"), "asked").read_bytes() == first


def test_a_registration_that_was_committed_is_kept_in_another_clone_and_by_later_code(asked, capsys, monkeypatch):
    """A registration's own commit makes another commit; a clone has it beside the file and no runs folder."""
    write, register = asked
    assert register() == 0
    beside, copy = registration.beside("asked"), registration.path(Path("runs"), "asked")
    made = beside.read_bytes()
    own = provenance.facts()
    for folder, changes in (("runs", {}), ("other", {"program": "0" * 16}), ("third", {"versions": {"peft": "1"}})):
        facts = {**own, "commit": "f" * 40, "uncommitted_changes": True, **changes}
        monkeypatch.setattr(provenance, "facts", lambda facts=facts: facts)
        shutil.rmtree("runs", ignore_errors=True)
        capsys.readouterr()
        assert register("--runs", folder) == 0
        text = capsys.readouterr().out
        assert " already, sha256 " in text and ("the program has changed since" in text) == bool(changes)
        assert beside.read_bytes() == made
        assert registration.path(Path(folder), "asked").read_bytes() == made
    copy.unlink(missing_ok=True)
    write(SWEEP.replace("- 0.01", "- 0.05"))
    assert register() == 2
    assert "a changed question is a new one: give it another name" in capsys.readouterr().err
    assert beside.read_bytes() == made and not copy.is_file()


def test_a_registration_after_the_first_run_is_refused(asked, capsys):
    _, register = asked
    assert register() == 0
    made = registration.read(registration.path(Path("runs"), "asked"))
    assert made is not None
    for file in (registration.path(Path("runs"), "asked"), registration.beside("asked")):
        file.unlink()
    cell = next(cell for cell in made.cells if cell.method == "lora")
    run = Path("runs") / cell.recipe_id / f"seed-{cell.seed}" / "record.json"
    run.parent.mkdir(parents=True)
    run.write_text("{}")
    assert register() == 2
    assert f"1 runs of this sweep are there already, such as runs/{cell.recipe_id}/seed-0" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["question", "level", "final_seeds", "exclusions", "code"])
def test_a_changed_registration_is_noticed(asked, field):
    _, register = asked
    register()
    file = registration.path(Path("runs"), "asked")
    content = json.loads(file.read_text())
    changed = {"question": "Another?", "level": 0.1, "final_seeds": [7], "exclusions": "none", "code": "0"}
    content[field] = changed[field]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="changed since it was registered"):
        registration.read(file)


def test_every_field_but_three_is_in_the_digest(asked):
    _, register = asked
    register()
    made = registration.read(registration.path(Path("runs"), "asked"))
    assert made is not None
    free = {name for name in vars(made) if registration.digest_of(replace(made, **{name: "other"})) == made.digest}
    assert free == {"schema", "registered_at", "digest"}


def test_it_is_taken_along_from_beside_the_file(asked):
    _, register = asked
    register()
    made = record.read(Registration, registration.beside("asked"))
    registration.adopt("asked", Path("elsewhere"))
    assert registration.read(registration.path(Path("elsewhere"), "asked")) == made
    registration.adopt("other", Path("elsewhere"))
    assert not registration.path(Path("elsewhere"), "other").exists()


def test_a_wrong_claim_is_one_line(asked, capsys):
    write, register = asked
    write(SWEEP.replace("lora@best >= full@best - 0.01", "lora@best is better than full@best"))
    assert register() == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith('error: sweep=asked: claim "lora@best is better than')


def test_a_claim_on_a_task_that_no_run_is_evaluated_on_is_warned_of(asked, capsys):
    write, register = asked
    write(SWEEP.replace("claims:\n", "claims:\n  - lora@best <= full@best on test_loss\n"))
    assert register() == 0  # with eval.tasks=[]
    warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    reason = "no run is evaluated on arc_easy (eval.tasks), so that nothing will decide it"
    assert warned == [
        f"warning: primary: {reason}", f'warning: claim "lora@best >= full@best - 0.01 on arc_easy/acc": {reason}',
    ]  # fmt: skip
