"""What a run does in its own process, done in this one: weights, facts and evaluations."""

import dataclasses
import json

import pytest
from pyarrow import parquet

from harness.config.experiment import Todo, evaluations
from harness.records import record
from harness.records.events import Measured, Message, PhaseStarted
from harness.records.record import EvaluationRecord
from harness.run.preflight import check
from harness.run.worker import execute


@pytest.fixture(autouse=True)
def warnings_stay_errors(monkeypatch):
    """A run leaves warnings to its log, which would undo pytest's own filter in this process."""
    monkeypatch.setattr("harness.run.worker.quiet", lambda: None)
    monkeypatch.setattr("harness.run.preflight.quiet", lambda: None)


@pytest.fixture
def described(compose, tiny_overrides):
    """A resolved experiment on the tiny model and the letters."""
    from harness.config import config
    from harness.run import inputs

    def made(*overrides):
        return inputs.resolve(config.build(compose(*tiny_overrides, *overrides)))

    return made


def carry_out(experiment, train, wanted=None):
    told = []
    wanted = evaluations(experiment) if wanted is None else wanted
    execute(experiment, Todo(train=train, evaluations=wanted, weights_from="then"), told.append)
    return measured(told), told


def measured(events):
    facts = Measured()
    for event in events:
        if isinstance(event, Measured):
            facts = facts.updated(event)
    return facts


def scores(experiment):
    [wanted] = evaluations(experiment)
    return record.read(EvaluationRecord, record.evaluation_path(experiment.folder, wanted.eval_id))


@pytest.mark.parametrize("method", ["lora", "full", "dora", "qlora"])
def test_trained_weights_are_kept_and_give_the_same_score_when_they_are_restored(described, method):
    experiment = described(f"method={method}")
    facts, told = carry_out(experiment, train=True)
    assert [event.name for event in told if isinstance(event, PhaseStarted)] == ["load", "train", "validate"]
    assert set(facts.phases) == {"load", "train", "validate"}
    assert facts.peak_memory_bytes > 0
    assert len(facts.training.losses) == 3
    assert facts.optimizer == {"name": "AdamW", "betas": [0.9, 0.999], "eps": 1e-8}
    fingerprint = facts.fingerprint
    assert fingerprint.trainable_parameters == fingerprint.expected_trainable_parameters > 0
    on_disk = sum(path.stat().st_size for path in experiment.weights_folder.rglob("*") if path.is_file())
    assert fingerprint.saved_bytes == on_disk > 0
    assert sorted(path.name for path in experiment.folder.iterdir()) == ["evaluations", "weights", "weights_from.txt"]

    trained = scores(experiment)
    facts, told = carry_out(experiment, train=False)
    assert facts.training is None
    restored = scores(experiment)
    assert restored.metrics["loss"].value == pytest.approx(trained.metrics["loss"].value, abs=1e-6)


def test_weights_are_saved_before_their_rate_is_judged(described, monkeypatch):
    """The device's peak after training may be lost or beaten; hours of training may not."""
    from harness.measure import mfu

    experiment, real, looks = described("method=lora"), mfu.measured, []

    def once(*kind):
        looks.append((experiment.weights_folder / "adapter_model.safetensors").is_file())
        if len(looks) == 2:
            raise OSError("the device has fallen off the bus")
        return real(*kind)

    monkeypatch.setattr(mfu, "measured", once)
    told = []
    todo = Todo(train=True, evaluations=(), weights_from="then")
    with pytest.raises(OSError, match="off the bus"):
        execute(experiment, todo, told.append)
    facts = measured(told)
    assert looks == [False, True]
    assert facts.weights_from == "then"
    assert len(facts.training.losses) == 3


VALIDATED = ("method=lora", "train.eval_every=1", "eval.batch_tokens=256")


def test_a_validation_on_the_way_is_a_phase_of_its_own(described):
    facts, told = carry_out(described(*VALIDATED), train=True, wanted=())
    assert [event.name for event in told if isinstance(event, PhaseStarted)] == [
        "load",
        "train",
        *3 * ["validate", "train"],
    ]
    assert set(facts.phases) == {"load", "train", "validate"}


def test_a_validation_that_runs_out_of_memory_takes_smaller_batches_and_trains_the_same(described, monkeypatch):
    import torch

    from harness.evaluate import heldout

    usual, _ = carry_out(described(*VALIDATED), train=True, wanted=())
    real, asked = heldout.score, []

    def hungry(model, rows, precision, tokens, progress):
        asked.append(tokens)
        if tokens > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(model, rows, precision, tokens, progress)

    monkeypatch.setattr(heldout, "score", hungry)
    facts, told = carry_out(described(*VALIDATED), train=True, wanted=())
    assert asked == [256, 128, 64, 64, 64], "the first one finds what fits"
    assert facts.training.losses == usual.training.losses
    wanted, found = ([loss for _, loss in one.training.validation] for one in (usual, facts))
    assert found == pytest.approx(wanted, abs=1e-5)
    assert [event.text for event in told if isinstance(event, Message)][-1].endswith(
        "batches of 64 tokens from here on"
    )


def test_a_validation_that_fits_with_no_batch_is_the_phase_that_failed(described, monkeypatch):
    import torch

    from harness.evaluate import heldout

    def never(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(heldout, "score", never)
    told = []
    with pytest.raises(torch.OutOfMemoryError):
        execute(described(*VALIDATED), Todo(train=True, evaluations=(), weights_from="then"), told.append)
    assert [event.name for event in told if isinstance(event, PhaseStarted)][-1] == "validate"


def test_the_base_is_only_looked_at_and_its_parameters_are_counted(described):
    experiment = described("method=base")
    facts, told = carry_out(experiment, train=False)
    assert [event.name for event in told if isinstance(event, PhaseStarted)] == ["load", "validate"]
    assert facts.fingerprint.trainable_parameters == 0
    assert facts.fingerprint.total_parameters > 50_000
    assert not experiment.weights_folder.exists()
    assert 4 < scores(experiment).metrics["loss"].value < 6


def test_text_is_written_in_a_phase_of_its_own(described):
    experiment = described(
        "method=base", "eval.generation_rows=2", "eval.test=always", "eval.sampling.max_new_tokens=4"
    )
    facts, told = carry_out(experiment, train=False)
    assert [event.name for event in told if isinstance(event, PhaseStarted)][-1] == "generate"
    assert facts.phases["generate"].seconds > 0
    assert set(facts.phases) <= set(record.PHASES)


def test_training_again_forgets_what_was_said_of_the_weights_before(described):
    experiment = described("method=lora")
    carry_out(experiment, train=True)
    carry_out(experiment, train=True, wanted=())
    assert not (experiment.folder / "evaluations").exists()


def test_items_of_the_heldout_rows(described):
    experiment = described("method=base", "eval.heldout_limit=5")
    carry_out(experiment, train=False)
    result = scores(experiment)
    path = record.evaluation_path(experiment.folder, result.eval_id)
    columns = parquet.read_table(path.with_suffix(".parquet")).to_pydict()
    assert set(columns) == {"item_id", "prompt_hash", "metric/nll", "num_tokens"}
    assert len(set(columns["item_id"])) == result.num_items == len(columns["metric/nll"])
    assert result.num_tokens == sum(columns["num_tokens"])
    assert result.metrics["loss"].value == pytest.approx(sum(columns["metric/nll"]) / result.num_tokens)
    assert json.loads(path.read_text())["weights_from"] == "then"


def test_rows_that_are_all_too_long_are_an_error(described):
    with pytest.raises(ValueError, match=r"train\.max_length=4: every training row is longer"):
        carry_out(described("train.max_length=4"), train=True)


def test_what_cannot_run_is_found_without_loading_a_weight(described):
    good, bad = described(), described("target=[nosuch]")
    wrong_task = dataclasses.replace(good, eval=dataclasses.replace(good.eval, tasks=("nosuch_task",)))
    problems = check([good, bad, wrong_task, bad], lambda event: None)
    assert [position for position, *_ in problems] == [1, 2, 3]
    assert "nosuch" in problems[0][-1]
    assert "q_proj" in problems[0][-1]
    assert "nosuch_task" in problems[1][-1]
