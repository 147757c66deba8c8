"""Training by two ranks in tests."""

from dataclasses import replace

from harness.records.settings import Fallback, LaunchSpec
from harness.train import launcher
from harness.train.checkpoint import Belongs
from harness.train.loop import train

PAIR = LaunchSpec(num_processes=2)
BELONGS = Belongs(recipe_id="12345678", seed=0, code="code", rung=Fallback(2, False), num_processes=2)


def weights(job):
    """The weights that train: of others nothing is gathered."""
    return {name: p.detach().clone() for name, p in job.model.named_parameters() if p.requires_grad}


def shared(make, emit=lambda event: None):
    """Train in two ranks, each with a job of its own; return what rank 0 measured and its weights.

    What rank 0 emits arrives at `emit`, here.
    """

    def work(emit_of_rank):
        job = replace(make(), emit=emit_of_rank)
        return train(job), weights(job)

    return launcher.launch(PAIR, work, emit)
