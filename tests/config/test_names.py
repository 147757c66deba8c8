"""Every name that becomes a part of a path has a pattern: it leaves no folder, in settings and in records alike."""

import dataclasses
import json
import typing

import pytest
from pydantic import TypeAdapter, ValidationError

from harness.config import config
from harness.config.sweep_file import SweepFile
from harness.records import data_check, measurements, record, registration
from harness.records.files import FileName
from harness.records.settings import DataSpec, ModelSpec
from harness.sweep.cluster import resources, submissions
from harness.sweep.status import find

ESCAPES = (
    "../../../../elsewhere/ESC", "..", ".", "", "/etc/x", "a/b", "a\\b", "C:\\x", ".hidden", "-rf", "a\nb", "a\x00b",
    "~/x", "a b", "a\x1b[31m", "a\u202eb", "a" * 121, "$HOME", "`x`", "a;b", "a|b", "*", "a:b", "con\u2028x",
)  # fmt: skip
NAMES = ("smollm2-135m", "llama-3.2-1b", "a", "science_qa", "mod\u00e8le", "x.y_z-1+2", "0123abcd")
FIELDS = {  # every field that is used in a path
    ModelSpec: ["name"], DataSpec: ["name"], SweepFile: ["name"],
    record.RunRecord: ["recipe_id", "method"], record.EvaluationRecord: ["recipe_id", "eval_id"],
    record.SweepRecord: ["name"], record.Cell: ["recipe_id", "eval_ids"], record.ExternalRecord: ["name"],
    measurements.ConvertedRecord: ["recipe_id"], measurements.InferenceRecord: ["recipe_id"],
    measurements.UpdateRecord: ["recipe_id"],
    data_check.DataCheck: ["check_id"],
    registration.Registration: ["name"], submissions.Submission: ["runs"],
}  # fmt: skip


@pytest.mark.parametrize("text", ESCAPES)
def test_a_name_that_could_leave_its_folder_is_refused(text):
    with pytest.raises(ValidationError, match="becomes the name of a file"):
        TypeAdapter(FileName).validate_json(json.dumps(text), strict=True)


@pytest.mark.parametrize("text", NAMES)
def test_a_usual_name_is_taken(text):
    assert TypeAdapter(FileName).validate_python(text) == text


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
def test_a_field_that_is_used_in_a_path_has_the_pattern(kind):
    hints = typing.get_type_hints(kind, include_extras=True)
    assert {one.name for one in dataclasses.fields(kind)} >= set(FIELDS[kind])
    for name in FIELDS[kind]:
        assert "_file_name" in str(hints[name]), name


@pytest.mark.parametrize("setting", ["model.name", "data.name"])
def test_a_setting_is_refused_in_one_line_that_names_it(compose, setting):
    with pytest.raises(ValueError, match=rf'{setting}="../../ESC": it becomes the name of a file') as error:
        config.build(compose(f'{setting}="../../ESC"'))
    assert len(str(error.value).splitlines()) == 1


def test_the_command_writes_nothing_outside(harness, tiny_overrides, tmp_path):
    words = [word for word in tiny_overrides if not word.startswith("model.")]
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    done = harness(
        *words, 'model.name="../../../ESC"', "model.weights=random", cwd=below, HARNESS_CACHE=str(below / "c")
    )
    assert done.code == 2 and "model.name" in done.err and "Traceback" not in done.err
    assert not list(tmp_path.rglob("*ESC*"))


@pytest.mark.parametrize("name", ["../theirs", "/tmp", "..", "theirs/../theirs"])
def test_a_sweep_is_found_by_its_name_alone(tmp_path, name):
    sweep = record.SweepRecord(schema=record.SCHEMA, name="theirs", question=None, command="", cells=())
    record.write(sweep, tmp_path / "sweeps" / "theirs" / "sweep.json")
    record.write(sweep, tmp_path / "theirs" / "sweep.json")
    assert find(tmp_path, "theirs").record == sweep
    with pytest.raises(ValueError, match="no sweep"):
        find(tmp_path, name)


@pytest.mark.parametrize("job", ["../x", "7;rm", "", "7_0", "x"])
def test_a_job_is_a_number(tmp_path, job):
    sent = submissions.Submission(schema=record.SCHEMA, job=job, submitted_at="", runs=(), at_once=1, words=())
    record.write(sent, tmp_path / "sweeps" / "theirs" / "slurm" / "7.json")
    with pytest.raises(ValueError, match="job"):
        submissions.read(tmp_path, "theirs")


@pytest.mark.parametrize("name", ["partition", "account", "qos", "constraint", "options"])
@pytest.mark.parametrize("sign", ["\n", "\r", "\x00", "\x1b", "\u2028"])
def test_an_option_of_a_job_is_one_line(name, sign):
    plain = {field.name: None for field in dataclasses.fields(resources.SlurmSpec)}
    usual = {
        "gpus": 0, "cpus": 1, "time_minutes": 60, "array_parallelism": 1, "setup": (), "signal_seconds": 60,
        "max_requeues": 0, "offline": True, "wait": False, "options": {},
    }  # fmt: skip
    value = f"x{sign}touch ran"
    with pytest.raises(ValueError, match=rf"hydra\.launcher\.{name}"):
        resources.SlurmSpec(**{**plain, **usual, name: {"comment": value} if name == "options" else value})
    assert resources.SlurmSpec(**{**plain, **usual, name: {"comment": "x y"} if name == "options" else "x"})
