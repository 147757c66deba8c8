"""A run scored as LoRA of a given rank: a row beside its origin, with what is lost in weights and in paired scores."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from pyarrow import parquet
from scipy import stats

from harness.config import config
from harness.config.experiment import evaluations
from harness.evaluate import __main__ as evaluate
from harness.records import record
from harness.records.record import ConvertedRecord, EvaluationRecord
from harness.report import __main__ as report
from harness.report.data.load import load
from harness.report.pages.conversion import blocks
from harness.run import converted, inputs, run, state

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
DORA = ["method=dora", "method.r=8", "train.lr=2e-2", "train.max_steps=5"]
RANK = 2


@pytest.fixture(scope="module")
def make(compose, shared_overrides):
    """An experiment in a folder of this module's, ready to run."""
    words = shared_overrides()
    return lambda *more: inputs.resolve(config.build(compose(*words, *more)))


@pytest.fixture(scope="module")
def scored(make):
    """DoRA as it was trained, as LoRA of a low rank, and as LoRA of a rank that loses nothing; beside the base."""
    origin = make(*DORA)
    others = [make(*DORA, "eval.weights=converted", f"eval.converted_r={rank}") for rank in (RANK, 128)]
    for experiment in (make("method=base"), origin, *others):
        result = run.run(experiment, lambda _: None)
        assert result.status == "ok", result.current.reason
    return origin, *others


def path_of(experiment):
    (look,) = evaluations(experiment)
    return record.evaluation_path(experiment.folder, look.eval_id)


def loss(experiment):
    return record.read(EvaluationRecord, path_of(experiment)).metrics["loss"].value


def losses(experiment):
    columns = parquet.read_table(path_of(experiment).with_suffix(".parquet")).to_pydict()
    return dict(zip(columns["item_id"], zip(columns["metric/nll"], columns["num_tokens"], strict=True), strict=True))


def test_it_is_another_look_at_the_same_run(scored):
    origin, low, high = scored
    assert origin.folder == low.folder == high.folder
    attempts = state.read(origin).attempts
    assert {attempt.weights_from for attempt in attempts} == {attempts[0].started_at}, "trained once"
    first = evaluations(origin)[0].eval_id
    assert [evaluations(entry)[0].eval_id for entry in (low, high)] == [
        f"{first}-converted-r{RANK}",
        f"{first}-converted-r128",
    ]
    assert all(map(state.done, scored))


def test_enough_rank_scores_as_the_origin_and_a_low_rank_does_not(scored):
    origin, low, high = scored
    assert loss(high) == pytest.approx(loss(origin), abs=1e-4)
    assert abs(loss(low) - loss(origin)) > 10 * abs(loss(high) - loss(origin))


def test_the_loss_of_each_layer_is_what_its_smaller_singular_values_hold(scored):
    from harness.adapter import load as trained

    origin = scored[0]
    written = record.read(ConvertedRecord, origin.folder / converted.NAME)
    assert written.weights_from == state.read(origin).current.weights_from
    assert set(written.by_rank) == {str(RANK), "128"}
    run_of_it = trained.find(origin.folder)
    before, after = trained.plain_base(run_of_it).state_dict(), dict(trained.merged(run_of_it).named_parameters())
    whole = lacking = 0.0
    made = written.by_rank[str(RANK)]
    assert len(made.weights) > 4
    for name, weight in made.weights.items():
        values = torch.linalg.svdvals((after[name].detach() - before[name]).double())
        assert weight.norm == pytest.approx(float(values.norm()), rel=1e-4)
        assert weight.lost == pytest.approx(float(values[RANK:].norm() / values.norm()), rel=1e-3)
        whole, lacking = whole + float(values.square().sum()), lacking + float(values[RANK:].square().sum())
    assert made.lost == pytest.approx((lacking / whole) ** 0.5, rel=1e-3)
    assert written.by_rank["128"].lost < 1e-2 < made.lost < 1


def test_the_scored_weights_are_those_that_the_adapter_command_writes(scored, make, tmp_path):
    from harness.adapter.convert import convert
    from harness.data import tokenized
    from harness.evaluate import heldout
    from harness.run.worker import wanted_tokens
    from harness.sources import models

    origin, low, _ = scored
    facts = convert(origin.folder, RANK, [], tmp_path / "out", lambda _: None)
    made = record.read(ConvertedRecord, origin.folder / converted.NAME).by_rank[str(RANK)]
    assert facts["lost"] == pytest.approx(made.lost)
    from peft import PeftModel

    base = models.load(origin.model, {"dtype": torch.float32})
    model = PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    rows = tokenized(origin.data, models.tokenizer(origin.model), wanted_tokens(origin)).validation
    scores = heldout.score(model, rows[: origin.eval.heldout_limit], "fp32", 2048, lambda _: None)
    assert heldout.metrics(scores)["loss"].value == pytest.approx(loss(low), abs=1e-5)


def test_a_report_shows_the_paired_difference_to_the_origin(scored, tmp_path, capsys):
    origin, low, _ = scored
    runs = shutil.copytree(origin.runs_dir, tmp_path / "runs")
    rows = load([runs]).rows
    assert [row.label for row in rows] == [
        "base",
        "dora (attached)",
        "dora (as LoRA r=128)",
        f"dora (as LoRA r={RANK})",
    ]
    from harness.report.data.groups import grouped

    whole, kinds, table, text = blocks(grouped(rows))
    entry = {row["method"]: row for row in whole.records()}[f"dora (as LoRA r={RANK})"]
    made = record.read(ConvertedRecord, origin.folder / converted.NAME).by_rank[str(RANK)]
    assert (entry["rank"], entry["lost"], entry["weights"]) == (RANK, made.lost, len(made.weights))
    assert {row["layer"] for row in kinds.records()} >= {"self_attn.q_proj", "mlp.down_proj"}
    gap = {row["method"]: row for row in table.records()}[f"dora (as LoRA r={RANK})"]
    ours, theirs = losses(low), losses(origin)
    tokens = np.array([count for _, count in ours.values()])
    apart = np.array([ours[item][0] - theirs[item][0] for item in ours])  # nats of an item, over all its answer tokens
    difference, low_end, high_end = (
        next(value for key, value in gap.items() if key.endswith(end))
        for end in ("/difference", "/difference_low", "/difference_high")
    )
    assert difference == pytest.approx(apart.sum() / tokens.sum(), abs=1e-9)
    rest = apart - difference * tokens  # the delta method's error of a ratio of sums
    error = np.sqrt((rest**2).sum() / (len(rest) * (len(rest) - 1))) / tokens.mean()
    half = stats.t.ppf(0.975, len(rest) - 1) * error
    assert (low_end, high_end) == pytest.approx((difference - half, difference + half), rel=0.05, abs=half / 20)
    assert "paired by seed and item" in text
    words = [str(runs), "--reports-dir", str(tmp_path / "reports")]
    assert report.main(words) == 3, "not every row is scored with the same weights"
    assert report.main([*words, "--allow", "eval.weights"]) == 0
    capsys.readouterr()
    written = [path.read_text() for path in (tmp_path / "reports").glob("*/report.md")]
    together = [page for page in written if "as LoRA r=2" in page and "as LoRA r=128" in page]
    assert len(together) == 1 and "Converted adapters" in together[0], "what is allowed to differ stands in one report"


def test_no_card_and_no_tracker_takes_its_scores_for_those_of_the_run(scored, tmp_path):
    from harness.adapter.convert import convert
    from harness.run import model_card
    from harness.sweep.tracking import summary

    origin, low, _ = scored
    model_card.write(origin.folder)
    card = (origin.folder / "weights" / model_card.CARD).read_text()
    assert f"| file/validation (converted-r{RANK}) | loss (lower is better) |" in card
    convert(origin.folder, RANK, [], tmp_path / "out", lambda _: None)
    own = (tmp_path / "out" / model_card.CARD).read_text()
    assert own.count("| file/validation") == own.count(f"| file/validation (converted-r{RANK}) |") > 0
    for experiment in (origin, low):
        mirrored = summary(experiment, state.read(experiment))
        assert mirrored["eval/file/validation/loss"] == pytest.approx(loss(experiment))


def test_what_the_base_is_called_with_is_refused_or_left_alone(make):
    with pytest.raises(ValueError, match=r"eval.weights=converted: method=prompt cannot be merged"):
        make("method=prompt", "eval.weights=converted")
    with pytest.raises(ValueError, match=r"eval.weights=converted with eval.backend=vllm"):
        make("method=lora", "eval.weights=converted", "eval.backend=vllm")
    with pytest.raises(ValueError, match=r"converted_r"):
        make("method=lora", "eval.weights=converted", "eval.converted_r=0")
    (look,) = evaluations(make("method=base", "eval.weights=converted"))
    assert look.weights == "attached", "an untrained model has nothing to convert"


@pytest.mark.parametrize("words", [["method=qlora", "method.r=4"], ["method=full"], ["method=ln_tuning"]])
def test_every_method_that_merges_is_scored(make, words):
    words = [*words, "train.lr=1e-2", "train.max_steps=3", "eval.weights=converted", "eval.converted_r=4"]
    experiment = make(*words)
    assert run.run(experiment, lambda _: None).status == "ok"
    made = record.read(ConvertedRecord, experiment.folder / converted.NAME).by_rank["4"]
    expected = {"qlora": made.lost < 0.01, "full": made.lost > made.lost_elsewhere > 0, "ln_tuning": made.lost == 1}
    assert expected[experiment.method.name], made


def test_gpt2_holds_its_weights_transposed():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=32, n_positions=32)).eval()
    after = {name: tensor.clone() for name, tensor in base.named_parameters()}
    changed = "transformer.h.0.attn.c_attn.weight"
    after[changed] = after[changed] + torch.randn(16, 3) @ torch.randn(3, 48)
    ids = torch.arange(10)[None]
    tuned = GPT2LMHeadModel(base.config).eval()
    tuned.load_state_dict({**base.state_dict(), changed: after[changed]})
    factors, made = converted.cut(base, after, 3, lambda _: None)
    assert set(factors) == {"transformer.h.0.attn.c_attn"}
    assert made.lost < 1e-5
    with torch.inference_mode():
        expected = tuned(ids).logits
        torch.testing.assert_close(converted.adapted(base, factors, 3).eval()(ids).logits, expected, atol=1e-4, rtol=0)


def test_one_command_scores_a_finished_run(scored, tmp_path, capsys):
    origin = scored[0]
    runs = shutil.copytree(origin.runs_dir, tmp_path / "runs")
    folder = runs / origin.recipe_id / "seed-0"
    (folder / converted.NAME).unlink()
    task = tmp_path / "task"
    task.mkdir()
    rows = [{"q": f"{i}:", "c": ["a", "b", "c c"], "a": i % 3} for i in range(12)]
    (task / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (task / "letters.yaml").write_text(
        "task: letters\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {task}/rows.jsonl}}}}\n"
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{c}}'\n"
        "doc_to_target: a\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
        "metadata: {version: 1.0}\n"
    )
    for words in ([], ["eval.weights=converted", "eval.converted_r=1"]):
        asked = [str(folder), "--tasks", "letters", f"eval.include_path={task}", *words, "--json"]
        assert evaluate.main(asked) == 0
        [document] = json.loads(capsys.readouterr().out)
        assert document["evaluations"][0]["record"]["metrics"]["acc"]["value"] >= 0
    assert record.read(ConvertedRecord, folder / converted.NAME).by_rank["1"].lost > 0
