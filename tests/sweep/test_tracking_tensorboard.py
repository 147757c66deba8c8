"""Runs and comparisons as TensorBoard's event files: what is written is read back with TensorBoard's own reader."""

import dataclasses
from functools import partial
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import (
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
    parse_session_end_info_plugin_data,
    parse_session_start_info_plugin_data,
)
from tensorboard.util.tensor_util import make_ndarray

from harness.config import checks, config
from harness.records import event_files
from harness.records.settings import TrackingSpec
from harness.report.__main__ import main
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.writers.flat import flat
from harness.report.writers.mirrors import write_event_files
from harness.run import inputs, run
from harness.sweep.tracking import Tracker, summary
from tests.report.conftest import LOOKS, LORA, add_evaluation, add_run


def seen(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def values(found: EventAccumulator, tag: str) -> list:
    return [make_ndarray(one.tensor_proto).tolist() for one in found.Tensors(tag)]


@pytest.fixture(scope="module")
def tracked(compose, shared_overrides):
    """A run made twice with the mirror open: the curves of the second attempt replace those of the first."""
    words = [*shared_overrides(), "method=lora"]
    tracker = None
    for force in ("force=false", "force=true"):
        experiment = inputs.resolve(config.build(compose(*words, force)))
        tracker = Tracker(TrackingSpec(name="tensorboard"), Path(experiment.runs_dir))
        tracker.begin(experiment)
        result = run.run(experiment, partial(tracker.event, experiment))
        tracker.end(experiment, result)
        tracker.close()
    return experiment, result


def test_a_run_is_mirrored_with_recipe_steps_and_summary(tracked):
    experiment, result = tracked
    folder = Path(experiment.runs_dir) / "tensorboard" / f"lora-{experiment.recipe_id}-s0"
    assert len(list(folder.glob("events.out.tfevents.*"))) == 2
    found = seen(folder)
    assert [one.step for one in found.Tensors("train/loss")] == [1, 2, 3]
    assert values(found, "train/loss") == pytest.approx(result.training.losses)
    assert '"max_steps": 3' in values(found, "recipe")[-1][0].decode()
    expected = {key: one for key, one in summary(experiment, result).items() if not isinstance(one, str)}
    assert {"trainable_parameters", "train_seconds", "eval/file/validation/loss"} <= set(expected)
    for key, one in expected.items():
        assert values(found, f"summary/{key}")[-1] == pytest.approx(one)
    assert values(found, "status")[-1] == [b"ok"]
    assert "Traceback" not in (Path(experiment.runs_dir) / "tensorboard" / "tracking.log").read_text()


def test_a_comparison_has_its_answer_tables_figures_and_a_line_of_numbers_for_every_row(tracked, tmp_path):
    runs = Path(tracked[0].runs_dir)
    for _ in range(2):  # the second takes the place of the first
        assert main([str(runs), "--out", str(tmp_path / "out"), "--tensorboard", str(tmp_path / "board")]) == 0
    [page] = tmp_path.glob("board/sweep-runs-*/events.out.tfevents.*")
    found = seen(page.parent)
    figures = sorted(tmp_path.glob("out/figures/*.png"))
    assert [path.stem for path in figures] == ["memory"]  # one run of a few items: nothing else can be drawn
    tags = found.PluginTagToContent("images")
    assert sorted(tags) == [f"figures/{one.stem}" for one in figures]
    assert values(found, f"figures/{figures[0].stem}")[0][2] == figures[0].read_bytes()
    assert "| Method |" in values(found, "main results")[0][0].decode()
    assert len(values(found, "answer")) == 1
    loaded = load([runs])
    [line] = flat(loaded.rows)
    [row] = page.parent.glob("rows/*")
    numbers = seen(row)
    assert values(numbers, "validation_loss") == [pytest.approx(line["validation_loss"])]
    assert values(numbers, "trainable_parameters") == [pytest.approx(line["trainable_parameters"])]
    content = numbers.PluginTagToContent("hparams")
    start = parse_session_start_info_plugin_data(content[SESSION_START_INFO_TAG])
    assert start.hparams["method"].string_value == "lora"
    assert parse_session_end_info_plugin_data(content[SESSION_END_INFO_TAG]).status == 1


def test_a_row_can_be_grouped_and_plotted_by_the_settings_that_differ(tmp_path):
    runs, report = tmp_path / "runs", tmp_path / "report"
    report.mkdir()
    for rank in (8, 16):
        kind = dataclasses.replace(LORA, settings={**LORA.settings, "r": rank}, lr=rank * 1e-4)
        add_evaluation(add_run(runs, kind), kind, LOOKS[2])
    place = write_event_files(Comparison(load([runs])), "ranks", report, tmp_path / "board")
    rates = {}
    for folder in sorted(place.glob("rows/*")):
        row = seen(folder)
        start = parse_session_start_info_plugin_data(row.PluginTagToContent("hparams")[SESSION_START_INFO_TAG])
        rates[start.hparams["method.r"].number_value] = start.hparams["learning_rate"].number_value
        assert start.hparams["label"].string_value.startswith("lora r=")
        assert start.hparams["model"].string_value == "smollm2-135m"
        tags = {*row.Tags()["tensors"]}
        assert {"arc_easy/acc", "peak_memory_bytes"} <= tags
        assert not {"method.r", "learning_rate", "seed"} & tags, "a setting is no result"
    assert rates == pytest.approx({8.0: 8e-4, 16.0: 16e-4})


def test_without_the_package_it_is_refused_before_anything_starts(compose, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(event_files, "installed", lambda: False)
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"tracking=tensorboard needs the package tensorboard: pip install"):
        config.build(compose("tracking=tensorboard"))
    assert main([str(tmp_path), "--tensorboard", str(tmp_path)]) == 2
    assert "--tensorboard needs the package tensorboard" in capsys.readouterr().err


def test_a_sweep_hands_its_comparison_over(harness, tiny_overrides, tmp_path):
    words = [word for word in tiny_overrides if not word.startswith("tracking=")]
    done = harness("-m", *words, "method=base", "tracking=tensorboard", cwd=tmp_path)
    assert done.code == 0, done.err
    folders = {
        path.parent.relative_to(tmp_path / "runs" / "tensorboard").parts[0].split("-")[0]
        for path in tmp_path.rglob("events.out.tfevents.*")
    }
    assert folders == {"base", "sweep"}
