"""Exports in the schema of Every Eval Ever, held against the schema that its package carries."""

import json

import pytest

from harness.report.__main__ import main
from harness.report.data.load import load
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
    assert json.loads(told.out)["faults"] == []
    rows = [row for row in load([tree], "methods").rows if row.scored]
    assert len(documents) == len(rows) > 3
    for row in rows:
        document = documents[f"{row.recipe_id}-seed-{row.seed}.json"]
        scores = {one["evaluation_result_id"]: one["score_details"]["score"] for one in document["evaluation_results"]}
        own = [metric.value for scored in row.scored for metric in scored.record.metrics.values()]
        assert sorted(scores.values()) == sorted(own)
        assert document["source_metadata"]["source_organization_name"] == "A lab"
        assert document["source_metadata"]["evaluator_relationship"] == "third_party"


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
