"""Models without weights, built from the shapes that are available here. Imports torch and transformers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from harness.records import base
from harness.records.settings import ModelSpec
from harness.sources import models
from harness.sources.random_weights import byte_tokenizer, configuration


def skeleton(spec: ModelSpec) -> PreTrainedModel:
    """Return the model on the meta device.

    Its shapes come from its folder, else from its YAML, else from the config.json of the Hub.

    Raises:
        ValueError: none of them is available.
    """
    return models.skeleton_of(_configuration(spec), torch.bfloat16, spec.trust_remote_code)


def tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a local folder; else a byte-level tokenizer, since no count depends on it."""
    return models.tokenizer(spec) if spec.source == "path" else byte_tokenizer()


def _configuration(spec: ModelSpec) -> Any:
    table = spec.architecture
    known = table is not None and spec.source != "path" and table.get("of") == spec.hub_id
    return configuration(spec) if known or spec.weights == "random" else _from_files(spec)


def _from_files(spec: ModelSpec) -> Any:
    at = replace(spec, revision=spec.revision or "main")
    try:
        name, where = models.location(at)
        return AutoConfig.from_pretrained(name, **where, trust_remote_code=spec.trust_remote_code)
    except (OSError, KeyError, ValueError) as error:
        reason = base.first_line(error)
        raise ValueError(
            f"model={spec.name}: nothing here tells its shapes ({reason}): give model.source=path "
            "model.path=<folder with config.json>, or a model whose YAML has an architecture"
        ) from error
