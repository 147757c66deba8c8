"""Ranks of several nodes train one run together; here the nodes are processes of this machine."""

import json
import multiprocessing
import os
import signal
import socket
import threading
import time

import pytest
from launched import shared, weights

from harness.measure import hardware
from harness.records.settings import Fallback, LaunchSpec
from harness.train import distributed, launcher, nodes
from harness.train.launcher import RankError
from harness.train.loop import train
from harness.train.nodes import Attempt, Node

NODES = LaunchSpec(num_processes=2, num_nodes=2)


def ignore(event):
    pass


@pytest.fixture(autouse=True)
def rendezvous(tmp_path, monkeypatch):
    """The file that the nodes of a job share."""
    file = tmp_path / "rendezvous.json"
    monkeypatch.setenv(nodes.FILE, str(file))
    monkeypatch.setenv("SLURMD_NODENAME", "node1")
    return file


@pytest.fixture
def further(rendezvous):
    """Start the second node of a run, which joins the first attempt."""
    started = []

    def begun(spec, work, refusal=""):
        def come():
            launcher.join(spec, next(nodes.attempts(rendezvous)), Node(1, "node2", refusal), work)

        node = multiprocessing.get_context("fork").Process(target=come)
        node.start()
        started.append(node)
        return node

    yield begun
    for node in started:
        node.kill()
        node.join()


def begin(work):
    """Be the first of two nodes."""
    return launcher.launch(NODES, work, ignore)


def test_two_nodes_give_to_the_bit_what_two_ranks_of_one_give(job, rows, further):
    make = lambda: job("method.lora_dropout=0.3", rows=rows(17), max_steps=4, micro_batch_size=2, lr=1e-3)  # noqa: E731
    expected, after = shared(make)

    def work(emit):
        own = make()
        return train(own), weights(own)

    node = further(NODES, work)
    found, together = begin(work)
    node.join(30)
    assert node.exitcode == 0
    for name in ("losses", "gradient_norms", "real_tokens", "padded_tokens", "trained_tokens", "sequences"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.profile.flops == expected.profile.flops
    assert all(together[name].equal(after[name]) for name in after)


def test_each_rank_knows_its_place_on_its_node(further, tmp_path):
    told = tmp_path / "told.json"

    def tell(emit):
        names = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE")
        own = (distributed.rank(), distributed.local_rank(), *(int(os.environ[name]) for name in names))
        places = distributed.all_gather(own)
        if distributed.rank() == 3:
            told.write_text(json.dumps(places))
        return places

    spec = LaunchSpec(num_processes=4, num_nodes=2)
    node = further(spec, tell)
    places = launcher.launch(spec, tell, ignore)
    node.join(30)
    assert node.exitcode == 0
    assert places == [(0, 0, 0, 2, 4), (1, 1, 1, 2, 4), (2, 0, 0, 2, 4), (3, 1, 1, 2, 4)]
    assert json.loads(told.read_text()) == [list(place) for place in places]


def kill_own_node():
    """As a machine that loses its power: the agent of this rank and, with it, the rank."""
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


def fail():
    raise ValueError("so")


@pytest.mark.parametrize(
    ("act", "text", "cause"),
    [
        (fail, "rank 1 on node node2: so", "work"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "rank 1 on node node2: killed by SIGKILL", "machine"),
        (kill_own_node, "rank 1 on node node2: lost, the node does not answer", "work"),
    ],
)
def test_the_end_of_a_rank_or_a_node_is_said(further, rendezvous, act, text, cause):
    """A node that is lost comes to no other attempt: the job has to be repeated."""

    def work(emit):
        distributed.barrier()
        if distributed.rank() == 1:
            act()
        distributed.barrier()

    further(NODES, work)
    began = time.monotonic()
    with pytest.raises(RankError, match=f"^{text}$") as caught:
        begin(work)
    assert caught.value.failure_cause == cause
    assert time.monotonic() - began < 25
    assert nodes.is_over(rendezvous) is (act is kill_own_node)


@pytest.mark.parametrize("reason", ["another run", "2 GPUs"])
def test_a_node_that_cannot_take_part_says_so_before_a_group_forms(further, monkeypatch, reason):
    if reason == "2 GPUs":
        monkeypatch.setattr(launcher, "unsupported", lambda spec: "" if os.getpid() == first else reason)
    first = os.getpid()
    node = further(NODES, pytest.fail, refusal=reason if reason == "another run" else "")
    with pytest.raises(RankError, match=f"^rank 1 on node node2: {reason}$"):
        begin(pytest.fail)
    node.join(10)
    assert node.exitcode == 1


def test_a_node_ends_with_the_first_one_whatever_it_does(further):
    def work(emit):
        distributed.barrier()
        if distributed.rank() == 0:
            raise ValueError("mine")
        signal.pause()

    node = further(NODES, work)
    with pytest.raises(ValueError, match=r"^mine$"):
        begin(work)
    node.join(25)
    assert node.exitcode == 1


def test_a_node_that_does_not_come_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(launcher, "FORMING", launcher.FORMING / 600)
    with pytest.raises(RankError, match="node 1 of 2 did not come") as caught:
        begin(pytest.fail)
    assert caught.value.failure_cause == "machine"


def test_an_attempt_that_is_over_is_not_joined():
    """The next one may wait for this node meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    join = multiprocessing.get_context("fork").Process(
        target=launcher.join, args=(NODES, Attempt(address="127.0.0.1", port=port, token="a"), Node(1, "b"), ignore)
    )
    join.start()
    join.join(20)
    assert join.exitcode == 1


def test_there_are_further_nodes_in_a_job_alone(monkeypatch):
    monkeypatch.delenv(nodes.FILE)
    text = "launch.num_nodes=2 works only inside a SLURM job: add hydra/launcher=slurm, or set launch.num_nodes=1"
    with pytest.raises(ValueError, match=f"^{text}$"):
        begin(pytest.fail)


def test_further_nodes_see_each_attempt_once_and_the_end(rendezvous):
    seen, attempts = [], [Attempt("a", Fallback(n, True, 64), "here", 7, str(n)) for n in (1, 2)]
    looks = threading.Thread(target=lambda: seen.extend(nodes.attempts(rendezvous)))
    looks.start()
    for attempt in (*attempts, None):
        nodes.publish(attempt, rendezvous)
        time.sleep(2.5 * nodes._POLL_SECONDS)
    looks.join(10)
    assert seen == attempts
    assert json.loads(rendezvous.read_text()) is None


@pytest.mark.parametrize(("number", "needs"), [(1, "as many GPUs"), (2, "2 GPUs on each of 2 nodes")])
def test_gpus_are_counted_by_node(monkeypatch, number, needs):
    monkeypatch.setattr(hardware, "device_names", lambda: ["0"])
    spec = LaunchSpec(num_processes=4, num_nodes=number)
    assert launcher.unsupported(spec) == f"launch.num_processes=4 needs {needs}, and 1 can be seen"
    monkeypatch.setattr(hardware, "device_names", lambda: ["0", "1", "2", "3"][: 4 // number])
    assert launcher.unsupported(spec) == ""


def test_gpus_of_other_machines_are_counted_there(monkeypatch):
    monkeypatch.setattr(hardware, "usable_cards", lambda: (hardware.Card("0", "a login node's", (9, 0), 1),))
    assert launcher.unsupported(LaunchSpec(num_processes=4))
    monkeypatch.setenv(hardware.RUNS_ON, "cuda")
    assert launcher.unsupported(LaunchSpec(num_processes=4)) == ""


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
