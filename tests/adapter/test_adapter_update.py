"""The shape of an update: known matrices, real runs, and the report's page."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from harness.adapter.update import intruders, shape_of_update
from harness.records.record import UpdateRecord, read
from harness.report import write as write_report

ALLOW = ("train.precision", "eval.precision", "eval.train_precision")  # one of the runs is in bfloat16


def orthogonal(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]


U, V = orthogonal(40, 24, 0), orthogonal(24, 24, 1)
WEIGHT = (U * torch.linspace(8, 1, 24, dtype=torch.float64)) @ V.T
OUTSIDE = orthogonal(40, 40, 2)
OUTSIDE = torch.linalg.qr(OUTSIDE - U @ (U.T @ OUTSIDE))[0][:, :16]  # directions that the weight has not


def test_equal_singular_values_count_as_many_as_they_are():
    found = shape_of_update(WEIGHT, WEIGHT + 0.01 * U[:, :5] @ V[:, :5].T)
    assert found.effective_rank == pytest.approx(5, rel=1e-3)
    assert found.stable_rank == pytest.approx(5, rel=1e-3)
    assert found.norm == pytest.approx(0.01 * 5**0.5, rel=1e-3)
    assert found.relative_norm == pytest.approx(found.norm / float(WEIGHT.norm()), rel=1e-3)


def test_the_weights_own_directions_are_aligned_and_no_intruders():
    found = shape_of_update(WEIGHT, 1.1 * WEIGHT)
    assert found.alignment_left == pytest.approx(1, abs=1e-3)
    assert found.alignment_right == pytest.approx(1, abs=1e-3)
    assert (found.num_aligned, found.intruder_dimensions) == (10, 0)


def test_strong_directions_from_outside_are_intruders():
    found = shape_of_update(WEIGHT, WEIGHT + 20 * OUTSIDE[:, :3] @ V[:, -3:].T)
    assert found.intruder_dimensions == 3
    assert found.alignment_left == pytest.approx(0, abs=1e-6)
    assert found.num_aligned == 3
    weak = shape_of_update(WEIGHT, WEIGHT + 0.1 * OUTSIDE[:, :3] @ V[:, -3:].T)
    assert weak.intruder_dimensions == 0


def test_an_intruder_is_below_epsilon_with_every_vector():
    at = [[0.51, 0.49], [0.86, 0.87]]
    assert intruders(torch.eye(3)[:, :1], torch.tensor([*at, [0.0, 0.0]])) == 1


def test_a_small_update_is_told_from_rounding():
    weight, update = WEIGHT.float(), 1e-5 * torch.outer(U[:, 3], V[:, 7]).float()
    found = shape_of_update(weight, weight + update)
    assert found.effective_rank == pytest.approx(1, rel=0.02)


def test_a_vector_has_norms_alone():
    found = shape_of_update(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5]))
    assert (found.norm, found.relative_norm, found.effective_rank) == (0.5, 0.1, None)
    assert shape_of_update(torch.zeros(2), torch.ones(2)).relative_norm is None


@pytest.fixture(scope="module")
def measured(made, tmp_path_factory):
    """Copies of the runs with an update.json each, in one runs folder."""
    from harness.run import isolate

    root = tmp_path_factory.mktemp("measured")
    for name in ("lora", "qlora", "full", "prompt", "base", "dora"):
        folder = root / "runs" / made[name].parent.name / made[name].name
        shutil.copytree(made[name], folder)
        if name not in ("base", "dora"):
            ended = isolate.call("harness.adapter.update:measure", folder, [], log=root / "log.txt")
            assert ended.kind == "returned", ended.reason
    return {name: root / "runs" / folder.parent.name / folder.name for name, folder in made.items()}


def test_lora_changes_its_targets_at_no_more_than_its_rank(measured):
    found = read(UpdateRecord, measured["lora"] / "update.json")
    assert len(found.weights) == 14
    assert all(1 < one.effective_rank <= 16 for one in found.weights.values())
    saved = load_file(measured["lora"] / "weights" / "adapter_model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    a, b = (saved[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    assert found.weights[f"{name}.weight"].norm == pytest.approx(float((2 * b @ a).norm()), rel=1e-4)


def test_an_update_on_a_quantized_base_is_not_drowned_in_rounding(measured):
    found = read(UpdateRecord, measured["qlora"] / "update.json")
    assert len(found.weights) == 14
    assert all(1 <= one.effective_rank <= 4 and one.num_aligned == 4 for one in found.weights.values())


def test_full_fine_tuning_changes_everything(measured):
    found = read(UpdateRecord, measured["full"] / "update.json")
    assert len(found.weights) == 20
    assert found.weights["model.norm.weight"].effective_rank is None
    assert found.weights["model.layers.0.mlp.up_proj.weight"].effective_rank > 16


def test_the_command_shows_what_is_known_without_measuring_again(measured, adapter, tmp_path, monkeypatch):
    folder = tmp_path / "seed-0"
    shutil.copytree(measured["lora"], folder)
    monkeypatch.setattr("harness.adapter.__main__._elsewhere", lambda *_, **__: pytest.fail("measured again"))
    code, out, err = adapter("info", folder)
    assert (code, err) == (0, "")
    assert "trained 32,768 parameters in 28 tensors, of 123,456 (by formula 32,768)" in out
    assert "model.layers.{0..1}.mlp.down_proj.weight" in out
    code, out, _ = adapter("info", folder, "--json")
    found = json.loads(out)
    assert found["base"]["content"].startswith("path:")
    assert found["update"]["num_top"] == 10
    assert len(found["update"]["weights"]) == len(found["trained"]) / 2


def test_an_update_of_older_weights_is_measured_again(measured, adapter):
    path = measured["lora"] / "update.json"
    before = path.read_text()
    path.write_text(before.replace(read(UpdateRecord, path).weights_from, "2020-01-01T00:00:00.000+00:00"))
    assert adapter("info", measured["lora"], "--weights")[0] == 0
    assert path.read_text() == before


def test_what_is_no_weight_change_says_so(measured, adapter):
    code, out, _ = adapter("info", measured["prompt"])
    assert code == 0
    assert "what method=prompt trains is not a change of weights" in out
    assert "trained 1,280 parameters" in out


def test_the_report_compares_methods_by_it(measured, tmp_path):
    runs = measured["lora"].parents[1]
    page = write_report(runs, out=tmp_path / "one", allow=ALLOW)
    assert "(update.md)" in page.read_text()
    text = (tmp_path / "one" / "update.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| Full fine-tuning |"))
    assert line.split("|")[2].strip() == "15"
    assert "- Prompt tuning: what method=prompt trains is not a change of weights" in text
    assert "Not measured: DoRA" in text
    assert "| self_attn.q_proj | QLoRA | 2 |" in text
    write_report(runs, out=tmp_path / "two", allow=ALLOW)
    for name in ("update.md", "figures/update.svg", "figures/update.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_without_measurements_there_is_no_page(made, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "update.md").write_text("old")
    page = write_report(made["lora"].parents[1], out=tmp_path / "report", allow=ALLOW)
    assert "update.md" not in page.read_text()
    assert not (tmp_path / "report" / "update.md").exists()
