"""Whatever is in a record or a setting: it is what was meant, or one ValueError says why not."""

import json
from dataclasses import fields, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harness.config import config
from harness.config.experiment import Experiment
from harness.records import record
from harness.records.record import Attempt, EvaluationRecord, Metric, RunRecord, SweepRecord

FEW = settings(
    max_examples=60, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
KINDS = (RunRecord, EvaluationRecord, SweepRecord)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)


def read(kind, path):
    """The record, or None where one ValueError says in one line what is wrong with the file."""
    try:
        return record.read(kind, path)
    except ValueError as error:
        message = str(error)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return None


# --- records ---

ATTEMPT = Attempt(
    started_at="2026-01-01T00:00:00.000+00:00", status="failed", reason="", phases={}, data=None, fingerprint=None,
    training=None, peak_memory_bytes=None, weights_from=None, provenance={},
)  # fmt: skip
RUN = RunRecord(
    schema=record.SCHEMA, recipe_id="0123abcd", seed=0, method="lora", recipe={}, config={}, attempts=(ATTEMPT,)
)
EVALUATION = EvaluationRecord(
    schema=record.SCHEMA, recipe_id="0123abcd", seed=0, eval_id="ffff0000", evaluation={}, metrics={}, num_items=1,
    num_tokens=None, num_fewshot=None, seconds=1.0, weights_from=None, provenance={},
)  # fmt: skip
METRICS = st.builds(
    Metric, value=NUMBERS.map(float), stderr=st.none() | NUMBERS.map(float), higher_is_better=st.booleans(),
    chance=st.none() | st.floats(0, 1),
)  # fmt: skip
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,11}", fullmatch=True)  # what becomes the name of a file
TABLES = st.dictionaries(TEXTS, VALUES, max_size=3)
ATTEMPTS = st.builds(
    replace, st.just(ATTEMPT), status=st.sampled_from(["ok", "oom", "diverged", "failed", "skipped"]), reason=TEXTS,
    provenance=TABLES, peak_memory_bytes=st.none() | st.integers(0, 2**63 - 1),
)  # fmt: skip
RUNS = st.builds(
    replace, st.just(RUN), recipe_id=NAMES, seed=st.integers(0, 2**32 - 1), method=NAMES, recipe=TABLES, config=TABLES,
    attempts=st.lists(ATTEMPTS, min_size=1, max_size=3).map(tuple),
)  # fmt: skip
EVALUATIONS = st.builds(
    replace, st.just(EVALUATION), evaluation=TABLES, metrics=st.dictionaries(TEXTS, METRICS, max_size=3),
    num_items=st.integers(0, 10**9), num_fewshot=st.none() | st.integers(0, 100),
)  # fmt: skip


@FEW
@given(RUNS | EVALUATIONS)
def test_what_is_written_is_what_is_read(tmp_path, made):
    path = record.write(made, tmp_path / "record.json")
    found = record.read(type(made), path)
    assert found == made
    assert record.write(found, tmp_path / "again.json").read_bytes() == path.read_bytes()


@FEW
@given(VALUES)
def test_any_json_is_a_record_or_one_error(tmp_path, value):
    (tmp_path / "record.json").write_text(json.dumps(value))
    for kind in KINDS:
        assert read(kind, tmp_path / "record.json") is None  # no table of chance is a record


@FEW
@given(st.binary(max_size=60))
def test_any_bytes_are_one_error(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    for kind in KINDS:
        assert read(kind, tmp_path / "record.json") is None


@FEW
@given(st.sampled_from([RUN, EVALUATION]), st.data())
def test_a_record_with_one_field_that_is_another_is_a_record_or_one_error(tmp_path, made, data):
    path = record.write(made, tmp_path / "record.json")
    table = json.loads(path.read_text())
    name = data.draw(st.sampled_from(sorted(table)) | TEXTS)
    table[name] = data.draw(VALUES)
    path.write_text(json.dumps(table))
    found = read(type(made), path)
    assert found is None or json.loads(json.dumps(getattr(found, name))) == table[name]


@FEW
@given(RUNS, st.data())
def test_a_record_that_breaks_off_is_one_error(tmp_path, made, data):
    path = record.write(made, tmp_path / "record.json")
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 3))])  # the last two: a brace, a new line
    with pytest.raises(record.DamagedError, match="breaks off or is damaged"):
        record.read(RunRecord, path)


# --- settings ---


@pytest.fixture(scope="module")
def composed(compose):
    """The composed configuration as plain tables, with references resolved, and the paths of its values."""
    plain = OmegaConf.to_container(compose("method=lora"), resolve=True)
    sections = {"model", "data", "train", "eval", "method", "inference", "launch", "plan", "target", *config._PLAIN}
    paths = [(name, key) for name in sections & set(plain) if isinstance(plain[name], dict) for key in plain[name]]
    paths += [(name,) for name in sections & set(plain)]
    assert len(paths) >= 80
    return plain, sorted(paths)


LITERALS = st.sampled_from(["nan", "inf", "1e999", "auto", "re:(", "../x", "${seed}", "{{", "0", "\x00", "no", ","])
WILD = VALUES | LITERALS | st.floats() | st.integers(-(10**30), 10**30) | st.integers(-2, 9)


def built(tables):
    """The experiment, or None where one error of those that the command turns into exit code 2 says why not."""
    try:
        return config.build(OmegaConf.create(tables))
    except (*config.WRONG_INPUT, ValueError) as error:
        message = config.readable(error)
    assert message
    assert "Traceback" not in message
    assert "pydantic" not in message
    return None


@settings(FEW, max_examples=150)
@given(st.data())
def test_any_value_of_a_setting_is_an_experiment_or_one_error(composed, data):
    plain, paths = composed
    tables = json.loads(json.dumps(plain))
    for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=2)):
        at = tables
        for key in path[:-1]:
            at = at[key] if isinstance(at.get(key), dict) else at.setdefault(key, {})
            if not isinstance(at, dict):
                return
        at[path[-1]] = data.draw(WILD)
    found = built(tables)
    assert found is None or (isinstance(found, Experiment) and len(fields(found)) > 10)


def test_what_was_composed_is_an_experiment(composed):
    assert isinstance(built(composed[0]), Experiment)
