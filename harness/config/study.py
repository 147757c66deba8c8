"""Published study that a file in `sweeps/` repeats: its paper, data, numbers and known faults, each with its source.

    study:
      paper: Dettmers et al. 2023, QLoRA, arXiv 2305.14314
      data: {name: OASST1, rows: 9846}
      read: [scripts of artidoro/qlora]
      published:
        - {what: LoRA r=32 on GSM8K, value: 0.478, unit: exact match, source: PEFT's method comparison, basis: read}
      faults: [one seed]
      not_expressed: [answers are judged by a model in several turns]

A value of `published` is null where the paper prints none that was read. Nothing of it decides anything about a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]
Basis = Literal["read", "excerpt", "memory"]  # of the source itself; of a passage of it; not checked


class Strict:
    """Base of the schemas: unknown keys are refused."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class StudyData(Strict):
    """Training data of the study."""

    name: Text
    rows: Annotated[int, Field(ge=1)] | None = None  # for plans of hours; None: not published
    rows_basis: Basis = "read"


@dataclass(frozen=True, kw_only=True)
class PublishedNumber(Strict):
    """A number that the study prints."""

    what: Text
    value: float | None
    unit: Text
    source: Text
    basis: Basis


@dataclass(frozen=True, kw_only=True)
class Study(Strict):
    """A published study."""

    paper: Text
    read: Annotated[tuple[Text, ...], Field(min_length=1)]  # the sources that were read
    data: StudyData
    published: Annotated[tuple[PublishedNumber, ...], Field(min_length=1)]
    faults: Annotated[tuple[Text, ...], Field(min_length=1)]  # of the original, known and published
    not_expressed: tuple[Text, ...] = ()  # parts of the study that the file cannot say
