"""Compatibility of settings, as far as settings alone show it: checked before torch is imported."""

from __future__ import annotations

import os
from importlib.util import find_spec

from harness.config import kernels
from harness.config.experiment import Experiment
from harness.methods.contexts import InProcesses, OnDevice, Sharded, TrainedWith
from harness.records.settings import ModelSpec, TrackingSpec

_TRACKER_EXTRAS = {"tensorboard": "tensorboard", "trackio": "trackio"}  # tracker -> package of the extra of its name
_TRACKIO_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")  # where it logs to, by its own environment variables
_SOURCE_NEEDS = {"hub": ("hub_id",), "package": ("package", "file"), "path": ("path",)}


def check(experiment: Experiment) -> None:
    """Refuse settings that do not go together.

    Raises:
        ValueError: names them, and what is allowed.
    """
    if experiment.method.trains and experiment.train.lr is None:
        raise ValueError("train.lr=null: a method that trains needs a rate; set method.lr or train.lr")
    _check_rate(experiment)
    _check_method(experiment)
    _check_launch(experiment)
    _check_streams(experiment)
    model = experiment.model
    for needed in _SOURCE_NEEDS[model.source]:
        if getattr(model, needed) is None:
            raise ValueError(f"model.source={model.source} needs model.{needed}, which is null")
    _check_places(experiment)
    rows = (*experiment.data.train, *experiment.data.test)
    for section, spec, reads in (
        ("data", experiment.data, any(part.dataset for part in rows)),
        ("eval", experiment.eval, bool(experiment.eval.tasks)),
    ):
        if spec.source == "path" and spec.path is None and reads:
            raise ValueError(f"{section}.source=path needs {section}.path, a folder laid out like the Hub")
    _check_tracking(experiment.tracking)


def _check_places(experiment: Experiment) -> None:
    """Refuse a folder or a file that nothing would read: the run would use another model or other rows."""
    model, data, spec = experiment.model, experiment.data, experiment.eval
    if model.path is not None and model.source != "path":
        raise ValueError(
            f"model.path={model.path} with model.source={model.source}: it is read with model.source=path alone; add "
            "that, or leave model.path=null"
        )
    _check_hub(model)
    if data.path is not None and data.source != "path" and (spec.source, spec.path) != ("path", data.path):
        raise ValueError(
            f"data.path={data.path} with data.source={data.source}: it is read with data.source=path alone; add that, "
            "or leave data.path=null"
        )
    if spec.path not in (None, data.path) and spec.source != "path":
        raise ValueError(
            f"eval.path={spec.path} with eval.source={spec.source}: it is read with eval.source=path alone; add that, "
            "or leave eval.path out"
        )
    if data.file is not None and data.train and not any(rows.file for rows in (*data.train, *data.test)):
        raise ValueError(
            f"data.file={data.file}: data={data.name} has rows of its own and does not read it; use data=file, or "
            "leave data.file=null"
        )


def _check_hub(model: ModelSpec) -> None:
    """Refuse a repository or a revision of the Hub that is not read, since the weights are those of a package.

    A model of a package has the Hub id that it was made from, which its `architecture` repeats.
    """
    if model.source != "package":
        return
    made_from = (model.architecture or {}).get("of", model.hub_id)
    for field, value, usual in (("hub_id", model.hub_id, made_from), ("revision", model.revision, "main")):
        if value not in (None, usual):
            raise ValueError(
                f"model.{field}={value} with model.source=package: the weights would be those of model.package="
                f"{model.package}; add model.source=hub, or leave model.{field} out"
            )


def _check_rate(experiment: Experiment) -> None:
    """Refuse a scale of the method's rate where another rate takes its place: trials that vary it would be one run."""
    lr, scale, center = experiment.train.lr, experiment.lr_scale, experiment.method.lr
    if experiment.method.trains and scale != 1 and (center is None or lr != center * scale):
        raise ValueError(
            f"lr_scale={scale:g} with train.lr={lr:g}: lr_scale is a factor on method.lr, and train.lr takes the place "
            f"of that product, so that it would change nothing; give method.lr={lr:g} instead, or lr_scale=1"
        )


def _check_tracking(spec: TrackingSpec) -> None:
    """Refuse a tracker whose package is missing, and settings that it would ignore."""
    package = _TRACKER_EXTRAS.get(spec.name)
    if package and find_spec(package) is None:
        raise ValueError(
            f"tracking={spec.name} needs the package {package}: pip install 'harness[{spec.name}]'; or use "
            "tracking=none"
        )
    if spec.name in _TRACKER_EXTRAS and spec.entity is not None:
        raise ValueError(f"tracking.entity={spec.entity}: only tracking=wandb has one; leave it out")
    if spec.name == "tensorboard" and spec.mode == "online":
        raise ValueError(
            "tracking=tensorboard tracking.mode=online: its files stay on this machine; leave the mode out"
        )
    if spec.name == "trackio" and spec.mode == "online" and not any(os.environ.get(name) for name in _TRACKIO_REMOTE):
        raise ValueError(
            f"tracking=trackio tracking.mode=online: it logs to {' or '.join(_TRACKIO_REMOTE)}, and neither is set in "
            "the environment; set one, or use tracking.mode=offline"
        )


def _check_streams(experiment: Experiment) -> None:
    """Refuse a seed for drawing rows where none are drawn: two such runs would be the same training twice."""
    given = experiment.streams
    if experiment.data.resample is None and given.data and len(set(given)) > 1:
        raise ValueError(
            f"seed.data={given.data}: no training rows are drawn, so that it would change nothing; set "
            "data.resample=bootstrap, or leave it out"
        )


def unsupported(experiment: Experiment, device: str, is_here: bool = True) -> str:
    """Return why the experiment cannot run on `device` ("cpu" or "cuda"); "" if it can.

    `is_here` is False if another machine makes the run, whose packages are not known.
    """
    reason = experiment.method.unsupported(OnDevice(device))
    if reason or not experiment.method.trains:
        return reason
    return kernels.unsupported(experiment.train.kernels, device, is_here)


def _check_method(experiment: Experiment) -> None:
    """Refuse what the method cannot do."""
    method = experiment.method
    weights = experiment.eval.weights
    if weights != "attached" and not method.merges:
        raise ValueError(
            f"eval.weights={weights}: method={method.name} cannot be merged into the base model; use "
            "eval.weights=attached"
        )
    if weights == "converted" and method.trains and experiment.eval.backend == "vllm":
        raise ValueError(
            "eval.weights=converted with eval.backend=vllm: the converted adapter is scored where it was made; use "
            "eval.backend=shared_prefix, or write it with `harness adapter convert` and serve that folder"
        )
    bounds = method.lr_range
    if bounds is not None and bounds[0] > bounds[1]:
        raise ValueError(f"method.lr_range={list(bounds)}: the lowest rate comes first")
    method.require(TrainedWith(experiment.train))
    if method.trains:
        kernels.check(experiment.train, experiment.launch)


def _check_launch(experiment: Experiment) -> None:
    """Refuse an indivisible global batch, processes that the method cannot use, and training with a device map."""
    spec, number, method = experiment.train, experiment.launch.num_processes, experiment.method
    if not method.trains:
        return
    if experiment.model.device_map is not None:
        raise ValueError(
            f"model.device_map={experiment.model.device_map} with method={method.name}: GPUs with a part of the layers "
            "each work one after the other, which is for evaluation: method=base, or harness.evaluate on a run. To "
            "train a model that one GPU does not hold, use launch.num_processes=N launch.sharding=fsdp"
        )
    if experiment.launch.sharding == "fsdp":
        _check_sharding(experiment)
    if number == 1:
        return
    method.require(InProcesses(number))
    if spec.global_batch_size % (spec.micro_batch_size * number):
        raise ValueError(
            f"train.global_batch_size={spec.global_batch_size} is not a multiple of train.micro_batch_size="
            f"{spec.micro_batch_size} x launch.num_processes={number}: the optimizer would see another batch than "
            f"asked for; choose {_smaller(spec.global_batch_size, spec.micro_batch_size, number)}"
        )


def _smaller(global_batch: int, micro_batch: int, number: int) -> str:
    """Return a choice that fits: the largest micro batch that divides each process's share."""
    share, remainder = divmod(global_batch, number)
    if remainder:
        return "another number of processes"
    return f"train.micro_batch_size={next(rows for rows in range(micro_batch, 0, -1) if share % rows == 0)}"


def _check_sharding(experiment: Experiment) -> None:
    """Refuse sharding over one process, and sharding with a method that needs the whole model."""
    method = experiment.method
    if experiment.launch.num_processes == 1:
        raise ValueError(
            "launch.sharding=fsdp with launch.num_processes=1: one process has nobody to divide the model with; use "
            "more, each with a GPU, or launch.sharding=none"
        )
    if reason := method.unsupported(Sharded()):
        raise ValueError(
            f"launch.sharding=fsdp with method={method.name}: {reason}; use launch.sharding=none, or another method"
        )
