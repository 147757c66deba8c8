"""A judge behind a stub endpoint, and people who judge blindly."""

import csv
import dataclasses
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from harness.config.experiment import Evaluation
from harness.evaluate.judge import __main__ as command
from harness.evaluate.judge import answers, model, pairs
from harness.evaluate.judge.model import JudgementRecord
from harness.records import items, record
from harness.records.record import Attempt, EvaluationRecord, RunRecord

REPLIES = ("Good.\nScore: 8", "score: 4, no, **Score:** 6.5", "I cannot say", "Score: 11")
SECRET = "sk-very-secret"


@pytest.fixture
def stub():
    """An endpoint that gives one reply after the other, and keeps what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers.get("Authorization"), body))
            if body["model"] == "none":
                self.send_error(404, "no such model")
                return
            if body["model"] == "strict":
                self.refuse(400, b'{"error": "temperature is not taken"}')
                return
            if body["model"] == "busy" and len(asked) == 3:
                self.refuse(429, b"{}")
                return
            if body["model"] == "dies" and len(asked) == 3:
                self.refuse(403, b'{"error": "no credit left"}')
                return
            content = REPLIES[(len(asked) - 1) % len(REPLIES)]
            reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply)

        def refuse(self, code, body):
            self.send_response(code)
            self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()
    thread.join()
    server.server_close()


def add_run(folder, name, texts):
    """A run's record with one evaluation of generated answers."""
    attempt = Attempt(
        started_at="2026-01-01", status="ok", reason="", phases={}, data=None, fingerprint=None, training=None,
        peak_memory_bytes=None, weights_from="2026-01-01", provenance={},
    )  # fmt: skip
    run = RunRecord(
        schema=record.SCHEMA, recipe_id=name, seed=0, method=name, recipe={}, config={}, attempts=(attempt,)
    )  # fmt: skip
    look = Evaluation(
        kind="generation", task="mine/generated/test", role="target", rows="package", limit=None, num_fewshot=None,
        chat_template=False, precision="fp32", batch_size=1,
    )  # fmt: skip
    found = EvaluationRecord(
        schema=record.SCHEMA, recipe_id=name, seed=0, eval_id=look.eval_id, evaluation=dataclasses.asdict(look),
        metrics={}, num_items=len(texts), num_tokens=None, num_fewshot=None, seconds=1.0, weights_from="2026-01-01",
        provenance={},
    )  # fmt: skip
    record.write(run, folder / "record.json")
    path = record.write(found, record.evaluation_path(folder, look.eval_id))
    number = range(len(texts))
    columns = {
        "item_id": [f"item-{i}" for i in number], "question": [f"Q{i}?" for i in number], "answer": list(texts),
        "target": [f"gold {i}" for i in number],
    }  # fmt: skip
    items.write(columns, path.with_suffix(".parquet"))
    return folder


@pytest.fixture
def run(tmp_path):
    return add_run(tmp_path / "a" / "seed-0", "lora", [f"from a {i}" for i in range(4)])


@pytest.fixture
def other(tmp_path):
    return add_run(tmp_path / "b" / "seed-0", "dora", [f"from b {i}" for i in range(4)])


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("**Score**: 8", 8.0), ("**Score:** 8/10", 8.0), ('{"score": 7.5}', 7.5), ("__Score__: **9**", 9.0),
        ("Score: 3, so\n\nScore : 4", 4.0), ("Score: -5", None), ("Scores differ: 8", None),
    ],
)  # fmt: skip
def test_a_score_is_read_as_models_write_it(reply, score):
    by = model.Judge(endpoint="http://host/v1", model="m", rubric="r")
    assert model.read_score(reply, by) == score


def test_a_model_judges_and_everything_but_the_key_is_kept(run, stub, tmp_path, monkeypatch, capsys):
    endpoint, asked = stub
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    (tmp_path / "rubric.md").write_text("Is it {right}?")
    words = ["score", str(run), "--endpoint", endpoint, "--model", "judge-1", "--rubric", str(tmp_path / "rubric.md")]
    assert command.main([*words, "--key-variable", "JUDGE_KEY"]) == 0
    assert [(path, key) for path, key, _ in asked] == [("/v1/chat/completions", f"Bearer {SECRET}")] * 4
    shown = asked[2][2]["messages"][0]["content"]
    assert all(part in shown for part in ("Is it {right}?", "Q2?", "gold 2", "from a 2", "from 1 to 10"))
    assert asked[0][2]["temperature"] == 0
    [path] = run.glob("judgements/*.json")
    kept = record.read(JudgementRecord, path)
    assert (kept.model, kept.rubric, kept.prompt) == ("judge-1", "Is it {right}?", model.PROMPT)
    assert [score for _, score, _ in kept.verdicts] == [8.0, 6.5, None, None]
    assert (kept.mean, kept.num_unparsable) == (7.25, 2)
    assert SECRET not in "".join(file.read_text() for file in run.rglob("*.json")) + capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--model": "none"}, "404 no such model"),
        ({"--model": "strict"}, '400 Bad Request ({"error": "temperature is not taken"})'),
        ({"--endpoint": "http://127.0.0.1:9/v1"}, "no verdict"),
        ({"--endpoint": "http://me:word@127.0.0.1/v1"}, "it is recorded"),
        ({"--key-variable": "NOT_SET_ANYWHERE"}, "this environment variable is not set"),
        ({"--rubric": "nothing-there.md"}, "no such file"),
        ({"--task": "other"}, "0 evaluations with generated answers"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, stub, tmp_path, capsys, change, said):
    (tmp_path / "rubric.md").write_text("Is it right?")
    options = {"--endpoint": stub[0], "--model": "judge-1", "--rubric": str(tmp_path / "rubric.md"), **change}
    assert command.main(["score", str(run), *(word for option in options.items() for word in option)]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not list(run.glob("judgements/*"))


@pytest.mark.parametrize(
    "endpoint",
    ["https://:word@127.0.0.1/v1", "https://me@127.0.0.1/v1", "http://127.0.0.1/v1?key=word",
    "http://127.0.0.1/v1;key=word",
     "http://127.0.0.1/v1#word", "file:///etc/passwd", "ftp://127.0.0.1/v1", "127.0.0.1/v1", "http://", "http:///v1",
     "http://127.0.0.1:http/v1", "http://[::1/v1", "data:,x", ""],
)  # fmt: skip
def test_an_endpoint_is_a_plain_address_of_the_web(endpoint, run, tmp_path, capsys):
    assert judged(run, tmp_path, endpoint, "judge-1") == 2
    error = capsys.readouterr().err
    assert "--endpoint" in error and len(error.splitlines()) == 1 and "word" not in error.replace("password", "")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_key_is_sent_to_no_host_to_which_the_endpoint_redirects(code, run, stub, tmp_path, monkeypatch, capsys):
    endpoint, asked = stub

    class Redirects(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(code)
            self.send_header("Location", endpoint + "/chat/completions")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Redirects)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    try:
        where = f"http://127.0.0.1:{server.server_port}/v1"
        assert judged(run, tmp_path, where, "judge-1", "--key-variable", "JUDGE_KEY") == 2
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    error = capsys.readouterr().err
    assert f": {code} " in error and len(error.splitlines()) == 1 and SECRET not in error
    assert asked == []


def judged(run, tmp_path, endpoint, name, *more):
    (tmp_path / "rubric.md").write_text("Is it right?")
    words = ["score", str(run), "--endpoint", endpoint, "--model", name, "--rubric", str(tmp_path / "rubric.md")]
    return command.main([*words, *more])


def test_an_endpoint_that_is_busy_for_a_moment_is_asked_again(run, stub, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(model.time, "sleep", pauses.append)
    assert judged(run, tmp_path, stub[0], "busy") == 0
    assert (len(stub[1]), pauses) == (5, [1.0]), "as long as it asked for"


def test_what_was_judged_before_an_endpoint_failed_is_not_asked_again(run, stub, tmp_path, capsys):
    endpoint, asked = stub
    assert judged(run, tmp_path, endpoint, "dies") == 2
    assert "403 Forbidden" in capsys.readouterr().err and not list(run.glob("judgements/[!.]*"))
    assert judged(run, tmp_path, endpoint, "dies") == 0
    shown = [body["messages"][0]["content"] for _, _, body in asked]
    assert [next(i for i in range(4) if f"Q{i}?" in one) for one in shown] == [0, 1, 2, 2, 3]
    [path] = (run / "judgements").iterdir()
    kept = record.read(JudgementRecord, path)
    assert [item for item, _, _ in kept.verdicts] == [f"item-{i}" for i in range(4)]
    assert [score for _, score, _ in kept.verdicts] == [8.0, 6.5, None, 8.0]


def test_a_range_without_room_is_refused(run, stub, tmp_path, capsys):
    assert judged(run, tmp_path, stub[0], "judge-1", "--range", "10", "1") == 2
    assert "--range 10 1: the lower end comes first" in capsys.readouterr().err
    assert not stub[1]


def test_people_do_not_see_whose_answer_it_is(run, other, tmp_path, capsys):
    out = tmp_path / "pairs.csv"
    assert command.main(["export", str(run), str(other), "--out", str(out), "--seed", "3"]) == 0
    assert all(name not in out.read_text() for name in ("lora", "dora", "item-", str(tmp_path)))
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == pairs.COLUMNS
    assert len(rows) == 4
    sides = {row["answer_1"].split()[1] for row in rows}
    assert sides == {"a", "b"}, "both sides hold answers of both"
    for row in rows[:3]:  # a's answer is always the better one; the last pair has no verdict
        row["verdict"] = "1" if row["answer_1"].startswith("from a") else "2"
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, pairs.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    counted = pairs.count(out, pairs.key_path(out))
    assert (counted.wins_first, counted.wins_second, counted.ties, counted.missing) == (3, 0, 0, 1)
    assert counted.p_value == pytest.approx(0.25)
    assert command.main(["import", str(out)]) == 0
    assert f"better: 3 {run}, 0 {other}" in capsys.readouterr().out
    out.write_text(out.read_text().replace(",1\n", ",first\n").replace(",2\n", ",first\n"))
    assert command.main(["import", str(out)]) == 2
    assert "verdict 'first' is none of 1, 2, tie" in capsys.readouterr().err


def test_runs_that_were_asked_other_things_make_no_pairs(run, tmp_path):
    short = add_run(tmp_path / "c" / "seed-0", "vera", ["one"])
    with pytest.raises(ValueError, match="not to the same prompts"):
        pairs.export(answers.read(run, None), answers.read(short, None), tmp_path / "pairs.csv", 0)


@pytest.fixture
def filled(run, other, tmp_path):
    """Exported pairs, and a function that writes them as a spreadsheet saved them."""
    out = tmp_path / "pairs.csv"
    pairs.export(answers.read(run, None), answers.read(other, None), out, 0)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))

    def save(rows, delimiter=",", encoding="utf-8"):
        with out.open("w", newline="", encoding=encoding) as file:
            writer = csv.DictWriter(file, pairs.COLUMNS, delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
        return out

    return rows, save


@pytest.mark.parametrize(("delimiter", "encoding", "one"), [(";", "utf-8-sig", "1.0"), ("\t", "latin-1", " TIE ")])
def test_what_spreadsheets_save_is_read(filled, delimiter, encoding, one):
    rows, save = filled
    assert all(row["pair"].startswith("p") for row in rows), "12345e678901 would become another number"
    out = save([{**row, "prompt": "caf\u00e9?", "verdict": one} for row in rows[1:]], delimiter, encoding)
    counted = pairs.count(out, pairs.key_path(out))
    assert counted.missing == 1, "a row that was taken out has no verdict"
    assert counted.wins_first + counted.wins_second + counted.ties == 3


def test_a_pair_counts_once(filled, capsys):
    rows, save = filled
    out = save([*rows, rows[0]])
    assert command.main(["import", str(out)]) == 2
    assert "is there twice; import one file for each who judges" in capsys.readouterr().err


KEYS = [
    "",
    "null",
    "[]",
    "7",
    "{}",
    '{"pairs": {}}',
    "[" * 100_000,
    '{"first": "a", "second": "b", "seed": 0, "pairs": []}',
]


@pytest.mark.parametrize("content", KEYS, ids=range(len(KEYS)))
def test_what_is_no_key_is_named(filled, content, capsys):
    rows, save = filled
    out = save(rows)
    pairs.key_path(out).write_text(content)
    assert command.main(["import", str(out)]) == 2
    assert f"{pairs.key_path(out)}: not a key that `export` wrote" in capsys.readouterr().err


def test_an_answer_may_be_long(filled):
    rows, save = filled
    out = save([{**row, "prompt": "a" * 200_000, "verdict": "1"} for row in rows])
    assert pairs.count(out, pairs.key_path(out)).missing == 0


def test_verdicts_are_kept_by_item(filled, run, capsys):
    rows, save = filled
    out = save([{**row, "verdict": "1" if row["answer_1"].startswith("from a") else "2"} for row in rows[:3]])
    assert command.main(["import", str(out)]) == 0
    kept = json.loads((out.parent / "pairs.verdicts.json").read_text())
    assert (kept["first"], kept["wins_first"], kept["missing"]) == (str(run), 3, 1)
    assert sorted(kept["better"].values()) == ["first"] * 3
    assert set(kept["better"]) < {f"item-{i}" for i in range(4)}
