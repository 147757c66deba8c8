"""Processes of several nodes train one run together; here the nodes are processes of this machine."""

import json
import multiprocessing
import os
import signal

import pytest
from test_distributed import shared, weights

from harness.records.specs import LaunchSpec
from harness.train import distributed, meeting
from harness.train.loop import train
from harness.train.meeting import Node

NODES = LaunchSpec(num_processes=2, num_nodes=2)


@pytest.fixture
def further(tmp_path, monkeypatch):
    """Start the second node of a run: it comes to the first attempt, and does its part of it."""
    file = tmp_path / "meeting.json"
    monkeypatch.setenv(meeting.FILE, str(file))
    started = []

    def begun(launch, follow, refusal=""):
        def come():
            distributed.join(launch, next(meeting.invitations(file)), Node(1, "node2", refusal), follow)

        node = multiprocessing.get_context("fork").Process(target=come)
        node.start()
        started.append(node)
        return node

    yield begun
    for node in started:
        node.kill()
        node.join()


def test_two_nodes_give_to_the_bit_what_two_processes_of_one_give(job, rows, further):
    make = lambda: job("method.lora_dropout=0.3", rows=rows(17), max_steps=4, micro_batch_size=2, lr=1e-3)  # noqa: E731
    expected, after = shared(make)
    node = further(NODES, lambda: train(make()))
    own = make()
    found = begin(lambda: train(own))
    node.join(30)
    assert node.exitcode == 0
    for name in ("losses", "gradient_norms", "real_tokens", "padded_tokens", "trained_tokens", "sequences"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.profile.flops == expected.profile.flops
    together = weights(own)
    assert all(together[name].equal(after[name]) for name in after)


def test_each_process_knows_its_place_on_its_node(further, tmp_path):
    told = tmp_path / "told.json"

    def tell():
        names = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE")
        places = distributed.all_gather(
            (distributed.rank(), distributed.local_rank(), *(int(os.environ[name]) for name in names))
        )
        if distributed.rank() == 3:
            told.write_text(json.dumps(places))
        return places

    launch = LaunchSpec(num_processes=4, num_nodes=2)
    node = further(launch, tell)
    with distributed.start(launch, tell).joined():
        places = tell()
    node.join(30)
    assert places == [(0, 0, 0, 2, 4), (1, 1, 1, 2, 4), (2, 0, 0, 2, 4), (3, 1, 1, 2, 4)]
    assert json.loads(told.read_text()) == [list(place) for place in places]
    assert (distributed.rank(), distributed.local_rank(), distributed.world_size()) == (0, 0, 1)


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ("raises", "process 1 on node node2: ValueError: so"),
        ("is killed", "process 1 of 2 on node node2 has ended without a word"),
    ],
)
def test_the_end_of_a_node_is_said(further, ends, text):
    def follow():
        distributed.all_gather("here")
        if ends == "raises":
            raise ValueError("so")
        os.kill(os.getpid(), signal.SIGKILL)

    further(NODES, follow)
    with pytest.raises(distributed.RankError, match=f"^{text}$"):
        begin(lambda: (distributed.all_gather("here"), distributed.all_gather("never")))


@pytest.mark.parametrize("reason", ["another run", "2 GPUs"])
def test_a_node_that_cannot_take_part_says_so_before_a_group_forms(further, monkeypatch, reason):
    if reason == "2 GPUs":
        monkeypatch.setattr(distributed, "unsupported", lambda launch: "" if os.getpid() == first else reason)
    first = os.getpid()
    node = further(NODES, pytest.fail, refusal=reason if reason == "another run" else "")
    with pytest.raises(distributed.RankError, match=f"^process 1 on node node2: {reason}$"):
        begin(pytest.fail)
    node.join(10)
    assert node.exitcode == 1


def begin(work):
    """Be the first of two nodes."""
    with distributed.start(NODES, pytest.fail).joined():
        return work()


def test_a_node_ends_with_the_first_one_whatever_it_does(further):
    node = further(NODES, lambda: (distributed.all_gather("here"), signal.pause()))

    def fail():
        distributed.all_gather("here")
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        begin(fail)
    node.join(10)
    assert node.exitcode == 1


def test_a_node_that_does_not_come_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setenv(meeting.FILE, str(tmp_path / "meeting.json"))
    monkeypatch.setattr(meeting, "COME_SECONDS", 0.0)
    with pytest.raises(TimeoutError, match="process 1 of 2 did not come"):
        begin(pytest.fail)


def test_there_are_further_nodes_in_a_job_alone(monkeypatch):
    monkeypatch.delenv(meeting.FILE, raising=False)
    with pytest.raises(ValueError, match=r"launch.num_nodes=2: this is no job of hydra/launcher=slurm"):
        distributed.start(NODES, pytest.fail)


@pytest.mark.parametrize(("nodes", "needs"), [(1, "as many GPUs"), (2, "2 GPUs on each of 2 nodes")])
def test_gpus_are_counted_by_node(monkeypatch, nodes, needs):
    monkeypatch.setattr(distributed.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 1)
    launch = LaunchSpec(num_processes=4, num_nodes=nodes)
    assert distributed.unsupported(launch) == f"launch.num_processes=4 needs {needs}, and 1 can be seen"
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 4 // nodes)
    assert distributed.unsupported(launch) == ""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["launch.num_nodes=2"], "num_processes=1 is not a multiple of launch.num_nodes=2: .*choose 2, 4, "),
        (["launch.num_nodes=0"], "launch.num_nodes=0: must be greater than or equal to 1"),
    ],
)
def test_nodes_that_do_not_fit_are_refused_when_they_are_composed(experiment, words, text):
    with pytest.raises(ValueError, match=text):
        experiment(*words)


def test_the_number_of_nodes_is_no_part_of_a_recipe(experiment):
    one, two = (experiment("launch.num_processes=2", f"launch.num_nodes={n}", micro_batch_size=4) for n in (1, 2))
    assert one.recipe_id == two.recipe_id
