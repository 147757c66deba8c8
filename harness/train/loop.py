"""The one training loop: TRL's SFTTrainer without work whose results are not used. Knows no method by name."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler
from trl import SFTConfig, SFTTrainer

from harness.measure.profile import Profiler
from harness.measure.steps import WARMUP_STEPS, StepMeter
from harness.records.events import Measured
from harness.records.record import Training
from harness.records.settings import KernelSpec, TrainSpec
from harness.train import batches, cpu_attention, deterministic, distributed, fsdp, gpu_attention
from harness.train.batches import (
    Collator,
    Labeled,
    Shared,
    check_apart,
    for_model,
    labeled,
    reads_padding,
    row_lengths,
)
from harness.train.batches import LengthGroupedSampler as LengthGroupedSampler
from harness.train.callback import NO_GRADIENT, TrainingMonitor
from harness.train.callback import DivergedError as DivergedError
from harness.train.fsdp import unwrapped
from harness.train.job import Job as Job
from harness.train.kernels import Kernels, settled
from harness.train.loss import label_nats
from harness.train.probe import Probing
from harness.train.resume import Resuming, start_digest

_GPU_MULTIPLE = 64  # tokens


def total_steps(spec: TrainSpec, num_rows: int) -> int:
    """Return the number of optimizer steps of a run over `num_rows` training rows."""
    if spec.max_steps is not None:
        return spec.max_steps
    assert spec.epochs is not None, "TrainSpec lets exactly one of the two be null"
    steps_per_epoch = math.ceil(num_rows / spec.global_batch_size)  # the last may be short
    return max(1, math.ceil(spec.epochs * steps_per_epoch))


def compute_dtype(precision: str) -> torch.dtype:
    """Return the dtype that matrix products are computed in."""
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def train(job: Job) -> Training:
    """Train `job.model` in place.

    Raises:
        DivergedError: a loss or gradient norm is NaN or infinite, or the loss has left for good; names the step.
        PreemptedError: the run was told to end; a checkpoint of its last step is there, if it could be written.
        RuntimeError: no trained parameter receives a gradient.
    """
    loop = _Loop(job)
    if distributed.rank() > 0:
        torch.manual_seed(job.seed + distributed.rank() * 1_000_003)  # own dropout for own rows
    resumed_from = loop.begin(job.checkpoints)  # looks at the model, which is whole until then
    if job.sharding == "fsdp":
        _divide(job.model)
    try:
        with deterministic.algorithms(job.spec.deterministic and job.cuda):
            loop.train(resume_from_checkpoint=resumed_from)
    finally:
        loop.profiler.close()
        loop.kernels.turn(on=False)
    loop.undo_patches()
    result: Training = loop.watcher.result()
    if job.sharding == "fsdp":
        fsdp.gather_on_rank_0(job.model)
    return result


def described(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the name of an optimizer and its constants, such as the betas of AdamW, as the record keeps them."""
    constants = ("betas", "eps", "momentum", "alpha")
    constants_of = {key: optimizer.defaults[key] for key in constants if key in optimizer.defaults}
    return {
        "name": type(optimizer).__name__,
        **{k: list(v) if isinstance(v, tuple) else v for k, v in constants_of.items()},
    }


def _divide(model: Any) -> None:
    """Shard the model, of which every rank must hold the same weights."""
    if len(set(distributed.all_gather(start_digest(model)))) > 1:
        raise RuntimeError("launch.sharding=fsdp: the processes do not begin with the same weights")
    fsdp.shard(model)


class _Loop(Probing, Resuming, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that computes a loss and nothing else, on batches of like length, with a meter beside it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.meter = StepMeter(torch.cuda.is_available())
        last_dropped = min(WARMUP_STEPS, total_steps(job.spec, len(job.rows)))
        self.profiler = Profiler(last_dropped if job.profile else 0, follows_memory=job.sharding == "none")
        chosen = settled(job.spec.kernels, job.model, job.cuda and job.sharding == "none")
        if chosen.liger is True:
            job.emit(Measured(liger=True))
        self.kernels = Kernels(job.model, chosen)
        job = replace(job, validate=self.kernels.without(partial(_with_own_forward, job.model, job.validate)))
        self._has_kernels = chosen != KernelSpec(liger=False)
        if not self._has_kernels:  # the profiled step takes the memory of every other one
            job = replace(job, aside=contextlib.nullcontext)
        self._aside = job.aside
        self.watcher = TrainingMonitor(job, self.meter, self.profiler, self._probe)
        if job.sharding == "fsdp":
            fsdp.mark_presharded(job.model)
        weights = {parameter: parameter.data for parameter in job.model.parameters() if parameter.requires_grad}
        self._router_logits = getattr(_text_config(job.model), "output_router_logits", None)
        super().__init__(
            model=job.model,
            args=_arguments(job),
            train_dataset=Dataset.from_list([labeled(job.rows[0])]),  # it inspects one row, and requires a Dataset
            data_collator=_collator(job),
            processing_class=job.tokenizer,
        )
        self._return_router_logits(False)
        # what decides whether the trainer counts the tokens of a step; the model's own loss is not computed
        self.model_accepts_loss_kwargs = True
        self.train_dataset = Labeled(job.rows)
        if job.spec.packing:
            check_apart(job.model)
        still_trained = {parameter for parameter in job.model.parameters() if parameter.requires_grad}
        assert still_trained == set(weights), "the trainer must not change what is trained"
        # TRL rounds the adapters to bfloat16 for a quantized base alone, which would make methods incomparable
        for parameter, data in weights.items():
            parameter.data = data
        self.masked = not job.cuda or reads_padding(job.model)
        self.add_callback(self.watcher)

    def create_optimizer(self, *arguments: Any, **options: Any) -> torch.optim.Optimizer:
        """Return the method's optimizer, over the method's parameter groups."""
        job = self.job
        assert job.spec.lr is not None, "config.build refuses a trained method without a rate"
        groups = job.method.param_groups(job.model, job.spec.lr, job.spec.weight_decay)
        self.optimizer = job.method.optimizer(groups)
        job.emit(Measured(optimizer=described(self.optimizer)))
        self._gradient_norm = getattr(self.optimizer, "gradient_norm", lambda: None)
        self._steps_in_backward = getattr(self.optimizer, "steps_in_backward", False)
        return self.optimizer

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the gradient norm.

        An optimizer that steps during the backward pass leaves no gradient, and reports the norm that it saw.
        """
        seen = self._gradient_norm()
        return fsdp.full_tensor(super()._get_grad_norm(model, grad_norm)) if seen is None else seen

    def _defer_fsdp_gradient_reduction(self) -> contextlib.AbstractContextManager[None]:
        """Defer nothing: until the last micro batch every rank would hold the whole model's gradients."""
        return contextlib.nullcontext()

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._order()

    def _order(self) -> LengthGroupedSampler:
        spec, lengths = self.job.spec, row_lengths(self.job.rows)
        begun = self.watcher.last_step // math.ceil(len(lengths) / spec.global_batch_size)  # epochs that are over
        return LengthGroupedSampler(lengths, spec.global_batch_size, self.job.seed, spec.group_by_length, begun)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader; of several ranks each takes its part of every batch.

        accelerate would repeat rows to make the parts even.
        """
        spec = self.job.spec
        if distributed.world_size() == 1:
            return batches.guarded(super().get_train_dataloader(), spec)
        own = Shared(
            self._order(), distributed.rank(), distributed.world_size(), spec.global_batch_size, spec.micro_batch_size
        )
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset,
            batch_sampler=own,
            collate_fn=self.data_collator,
            num_workers=spec.dataloader_num_workers,
            pin_memory=torch.cuda.is_available(),
        )
        return batches.guarded(loader, spec)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Count the micro batch, then train on it."""
        if distributed.world_size() > 1:  # accelerate, which has not prepared this loader, would wait for each copy
            inputs = {name: value.to(self.args.device, non_blocking=True) for name, value in inputs.items()}
        self.meter.micro_batch(inputs["attention_mask"], inputs["labels"])
        self.profiler.micro_batch(inputs)
        self.kernels.turn(on=not self.profiler.follows)
        with self._shortcuts():
            return super().training_step(model, for_model(inputs, self.masked), num_items_in_batch)

    def _shortcuts(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which a step leaves out what it would compute twice or for nothing.

        On a GPU adapters take their inputs as they are, as PEFT's layers over a 4-bit base do there: without it LoRA
        would pay for casts, and keep copies, that QLoRA does not. Equal to the bit without dropout (tested on a CPU;
        its speed was not measured on a GPU). In float32 a fused kernel needs as many key heads as query heads.
        """
        job = self.job
        if job.spec.precision != "bf16":
            return gpu_attention.keys_for_every_head() if job.cuda else contextlib.nullcontext()
        if job.cuda:
            return cpu_attention.inputs_as_they_are(job.model) if job.method.leaves_inputs else contextlib.nullcontext()
        usual = job.spec.kernels in (KernelSpec(), KernelSpec(liger=False))  # the same on a CPU
        return cpu_attention.bfloat16_on_cpu(job.model, job.method.leaves_inputs) if usual else contextlib.nullcontext()

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: the trainer's own estimate is not used, and goes through all parameters at every step."""
        return 0

    def _run_epoch(self, *arguments: Any, **options: Any) -> None:
        """Train for an epoch, unless training has resumed after its last step: the trainer would make another one."""
        if self.watcher.is_over(self.state.max_steps):
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*arguments, **options)

    def _maybe_log_save_evaluate(self, tr_loss: Any, grad_norm: Any, *_: Any, learning_rate: Any = None) -> None:
        """Hand the step's loss and gradient norm on as they are: reading them would make the device wait."""
        if self.state.global_step > self.watcher.last_step:
            loss = self.accelerator.gather(tr_loss.detach()).mean()
            tr_loss.zero_()
            self.watcher.after_step(self.state, self.control, (loss, grad_norm, learning_rate))
            last = self.control.should_training_stop or self.state.global_step >= self.state.max_steps
            self.between_steps(last)
            self.watcher.start()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return nats per label-carrying token of the whole optimizer step, summed over its micro batches.

        Nothing else is trained on: a mixture of experts is trained without a load-balancing loss, as its reported
        losses are those of any other model.

        TRL's head works through labeled positions in tiles, but only where it has a kernel for it; elsewhere it
        computes every position, which on a CPU is half of a step.
        """
        with self.profiler.forward():
            return self._loss(model, inputs, num_items_in_batch)

    def _loss(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> torch.Tensor:
        labels = inputs["labels"]
        if self.job.cuda:
            nats = -model(**inputs, use_cache=False, fused_lm_head=True).log_probs.sum()
        else:
            others = {name: value for name, value in inputs.items() if name != "labels"}
            nats = label_nats(model, {**others, "use_cache": False}, labels)
        if not nats.requires_grad:
            raise RuntimeError(NO_GRADIENT)
        num_tokens = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        # tokens are counted over all ranks, but gradients are averaged over ranks, which the factor undoes
        loss = distributed.world_size() * nats / torch.as_tensor(num_tokens, device=nats.device).clamp(min=1)
        penalty = self.job.method.penalty(self.job.model)
        if penalty is None:
            return loss
        share = penalty / self.current_gradient_accumulation_steps
        return loss + share - share.detach()  # minimized, and not part of the reported loss

    def _return_router_logits(self, wanted: bool | None) -> None:
        """Let a mixture of experts return what its load-balancing loss is computed from, which is not trained on.

        TRL asks for it, in the configuration that is saved with the model, and would compute that loss at every step.
        """
        if self._router_logits is not None:
            _text_config(self.job.model).output_router_logits = wanted

    def undo_patches(self) -> None:
        """Give the model its own forward back: no autocast and no fused head around it."""
        self._return_router_logits(self._router_logits)
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        model = self.job.model
        language_model = unwrapped(model)
        for patched in (model, language_model):
            vars(patched).pop("forward", None)  # the patches are attributes of the instance, over the class's own


def _text_config(model: Any) -> Any:
    return unwrapped(model).config.get_text_config()


def _collator(job: Job) -> Collator:
    """Return what pads the rows of a micro batch.

    Lengths on a GPU are multiples of 64, up to the longest row allowed: cuDNN builds a graph for every new shape, and
    kernels work on whole tiles (reasoned from the libraries' sources, not measured on a GPU).
    """
    spec = job.spec
    return Collator(
        padding=job.tokenizer.pad_token_id,
        multiple=_GPU_MULTIPLE if job.cuda else 1,
        limit=spec.max_length,
        ends=spec.packing and spec.kernels.attention.startswith("flash"),
    )


def _with_own_forward(model: Any, function: Callable[[], float]) -> float:
    """Call the function while the model has its own forward: no autocast of training and no fused head around it."""
    models = dict.fromkeys((model, unwrapped(model)))
    patched = [vars(module) for module in models if "forward" in vars(module)]
    patches = [attributes.pop("forward") for attributes in patched]
    try:
        return function()
    finally:
        for attributes, patch in zip(patched, patches, strict=True):
            attributes["forward"] = patch


def _arguments(job: Job) -> SFTConfig:
    spec, cpu = job.spec, not torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=job.scratch,
        max_steps=total_steps(spec, len(job.rows)),
        per_device_train_batch_size=spec.micro_batch_size,
        gradient_accumulation_steps=spec.global_batch_size // (spec.micro_batch_size * distributed.world_size()),
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,  # buffers never change: each rank has computed its own
        # transformers' own "constant" silently leaves the warm-up out
        lr_scheduler_type=spec.lr_scheduler_type,
        warmup_steps=spec.warmup_steps,
        max_grad_norm=spec.max_grad_norm or 0.0,  # where 0 stands for no clipping
        gradient_checkpointing=spec.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if spec.gradient_checkpointing else None,
        bf16=spec.precision == "bf16",
        use_cpu=cpu,
        dataloader_pin_memory=not cpu,
        dataloader_num_workers=spec.dataloader_num_workers,
        accelerator_config={"non_blocking": not cpu},  # a pinned batch is copied while the device still computes
        max_length=spec.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},
        logging_nan_inf_filter=False,  # it would take the mean of the steps before for a loss that is no number
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job.seed,
    )
    arguments._n_gpu = 1  # a process trains on one GPU, however many it sees: TRL refuses to wrap it in DataParallel
    return arguments
