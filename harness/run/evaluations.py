"""Scoring of a model by each kind of evaluation."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.config.experiment import Evaluation, Experiment
from harness.data import chat
from harness.evaluate import general_text, generated, heldout, tasks, vllm
from harness.evaluate.precision import computing
from harness.records.events import Emit, Message, Progress
from harness.records.record import Metric
from harness.run import device_map
from harness.sources import models
from harness.train import failure

Found = tuple[dict[str, Metric], dict[str, list[Any]], dict[str, Any]]  # metrics, columns of the items, further facts


class Scores:
    """A model and its held-out rows, with one scoring method for each kind of evaluation."""

    experiment: Experiment
    model: Any
    tokenizer: Any
    heldout: dict[str, Sequence[Any]]
    emit: Emit
    validation_tokens: int | None = None  # of a batch, if the configured number was too large
    server: Any = None  # serves the model, if the evaluation does not run it directly

    def score(self, evaluation: Evaluation) -> Found:
        """Score the model by the evaluation's kind."""
        if evaluation.is_served:
            return self._by_kind(evaluation)
        with (
            self.experiment.method.fixed_weights(self.model),
            computing(self.model, evaluation.precision, room=device_map.free_bytes() // 2),
        ):
            metrics, columns, facts = self._by_kind(evaluation)
        if evaluation.role == "validation" and evaluation.train_precision == "bf16":
            rows = self.heldout["validation"][: evaluation.limit]
            facts["loss_in_bf16"] = self._loss(rows, "bf16", self.experiment.eval.batch_tokens)
        return metrics, columns, facts

    def _by_kind(self, evaluation: Evaluation) -> Found:
        result: Found = getattr(self, f"_score_{evaluation.kind}")(evaluation)
        return result

    def validation_loss(self) -> float:
        """Return the loss on the held-out rows for validation during training.

        If a GPU's memory runs out, the batches are halved for good, down to one row: the loss is the same up to
        rounding, and training has needed less memory. A sharded model raises the error instead.
        """
        spec = self.experiment.eval
        rows = self.heldout["validation"][: spec.heldout_limit]
        longest = max(len(row["input_ids"]) for row in rows)
        tokens = self.validation_tokens or spec.batch_tokens
        while True:
            try:
                return self._loss(rows, spec.precision, tokens)
            except RuntimeError as error:
                shared = self.experiment.launch.sharding != "none"
                if failure.cause(error) != "device_memory" or shared or tokens <= longest:
                    raise
            device_map.clear()  # after the handler: the error keeps the tensors of its frames alive
            tokens = self.validation_tokens = tokens // 2
            self.emit(Message(f"out of memory in validation: batches of {tokens:,} tokens from here on"))

    def _loss(self, rows: Sequence[Any], precision: str, tokens: int) -> float:
        with self.experiment.method.fixed_weights(self.model):
            scores = heldout.score(self.model, rows, precision, tokens, lambda _: None)
        return heldout.metrics(scores)["loss"].value

    def _score_heldout(self, evaluation: Evaluation) -> Found:
        rows = self.heldout[evaluation.role][: evaluation.limit]
        total = len(rows)
        assert evaluation.batch_tokens is not None, "held-out rows are batched by tokens"
        scores = heldout.score(
            self.model,
            rows,
            evaluation.precision,
            evaluation.batch_tokens,
            lambda done: self.emit(Progress(done, total)),
        )
        return heldout.metrics(scores, heldout.num_bytes(rows, self.tokenizer)), heldout.columns(rows, scores), {}

    def _score_lm_eval(self, evaluation: Evaluation) -> Found:
        spec = self.experiment.eval
        task = tasks.load(evaluation.task, spec.source, spec.path, spec.include_path, spec.unsafe_code)
        if evaluation.is_served:
            return tasks.score_on(self._server(evaluation), task, evaluation)
        return tasks.score(
            self.model, self.tokenizer, task, evaluation, lambda done, total: self.emit(Progress(done, total))
        )

    def _server(self, evaluation: Evaluation) -> Any:
        """Return the server of all tasks, which takes a minute to start. The model is freed to give it memory."""
        if self.server is None:
            with tempfile.TemporaryDirectory(dir=self.experiment.folder, prefix=".merged-") as folder:  # read at once
                source = self._served(evaluation, Path(folder))
                self.model = None  # the server reads the weights from the disk
                device_map.clear()
                self.server = vllm.backend(source, evaluation)
        return self.server

    def _served(self, evaluation: Evaluation, folder: Path) -> vllm.Served:
        model, method = self.experiment.model, self.experiment.method
        if evaluation.weights == "merged":
            return vllm.saved(self.model, self.tokenizer, folder)
        name, where = models.location(model)
        adapter = self.experiment.weights_folder if method.trains else None
        return vllm.Served(name=name, adapter=adapter, trust_remote_code=model.trust_remote_code, **where)

    def _score_generation(self, evaluation: Evaluation) -> Found:
        rows = self.heldout[evaluation.task.rpartition("/")[2]][: evaluation.limit]
        progress = lambda done: self.emit(Progress(done, len(rows)))  # noqa: E731
        closing = chat.closing(self.experiment.data, self.tokenizer)
        return *generated.score(generated.Writer(self.model, self.tokenizer, closing), rows, evaluation, progress), {}

    def _score_text(self, evaluation: Evaluation) -> Found:
        progress = lambda done, total: self.emit(Progress(done, total))  # noqa: E731
        return *general_text.score(self.model, self.tokenizer, evaluation, progress), {}
