"""How the processes of a run find one another, and what each hears of another's end."""

import json
import threading
import time
from dataclasses import replace
from multiprocessing.connection import wait

import pytest

from harness.records.specs import LaunchSpec, Rung
from harness.train import meeting
from harness.train.meeting import Attempt, Invitation, Meeting, Node

THREE = LaunchSpec(num_processes=3)


@pytest.fixture
def first():
    """The first one of three processes."""
    made = Meeting(THREE, Attempt())
    yield made
    made.end()


@pytest.fixture
def ends(first):
    """Two others' ends of their lines to the first process."""
    made = {rank: meeting.come(first.invitation, rank, None) for rank in (1, 2)}
    first.gather(lambda: None)
    return made


def test_nobody_comes_who_was_not_invited(first):
    strangers = [replace(first.invitation, token="another"), first.invitation]
    lines = [meeting.come(strangers[0], 1, None), meeting.come(strangers[1], 7, None)]
    lines += [meeting.come(first.invitation, rank, Node(rank, f"n{rank}", "why not")) for rank in (1, 2)]
    first.gather(lambda: None)
    assert {rank: (line.node, line.refusal) for rank, line in first.lines.items()} == {
        1: ("n1", "why not"), 2: ("n2", "why not"),
    }  # fmt: skip
    assert [line.hear(1) for line in lines[:2]] == [None, None]
    first.end()
    assert all(wait([line.connection], 1) for line in lines), "every line is cut"


def test_what_keeps_one_away_is_looked_for_while_it_is_waited_for(first):
    def look():
        raise LookupError("it has ended")

    with pytest.raises(LookupError):
        first.gather(look)
    for rank in (1, 2):  # the last one may have come to say so
        meeting.come(first.invitation, rank, None)
    first.gather(lambda: None)
    with pytest.raises(LookupError):
        first.gather(look)


def test_who_does_not_come_is_named(first, monkeypatch):
    monkeypatch.setattr(meeting, "COME_SECONDS", 0.0)
    with pytest.raises(TimeoutError, match="process 1, 2 of 3 did not come"):
        first.gather(lambda: None)


@pytest.mark.parametrize(("nodes", "address"), [(1, "127.0.0.1"), (3, "0.0.0.0")])
def test_what_is_not_for_another_machine_is_not_open_to_it(nodes, address):
    made = Meeting(LaunchSpec(num_processes=3, num_nodes=nodes), Attempt())
    with made.open_port() as port:
        assert port.getsockname()[0] == address
    made.end()


def test_as_long_as_all_are_there_none_has_ended(first, ends):
    assert first.last_words(0.0) is None
    assert first.last_words(0.1) is None


def test_an_end_without_a_word_is_an_end(first, ends):
    ends[2].close()
    assert first.last_words(1.0) == (2, None)


def test_who_says_why_is_heard_and_not_who_lost_it(first, ends):
    """The one that was lost speaks later than the one that noticed."""
    ends[1].say(kind="lost", text="connection closed by peer")
    ends[1].close()
    threading.Timer(0.3, lambda: ends[2].say(kind="raised", text="so")).start()
    assert first.last_words(5.0) == (2, {"kind": "raised", "text": "so"})


def test_a_reason_goes_before_silence(first, ends):
    ends[1].close()
    ends[2].say(kind="oom", text="so")
    time.sleep(0.1)
    assert first.last_words(1.0) == (2, {"kind": "oom", "text": "so"})


def test_further_nodes_see_each_attempt_once_and_the_end(tmp_path):
    file = tmp_path / "meeting.json"
    seen, attempts = [], [Invitation("here", 7, str(number), Attempt("a", Rung(number, True, 64))) for number in (1, 2)]
    looks = threading.Thread(target=lambda: seen.extend(meeting.invitations(file)))
    looks.start()
    for attempt in (*attempts, None):
        meeting.announce(attempt, file)
        time.sleep(2.5 * meeting._LOOK_SECONDS)
    looks.join(10)
    assert seen == attempts
    assert json.loads(file.read_text()) is None
