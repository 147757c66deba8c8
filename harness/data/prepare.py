"""Training, validation and test examples of a data configuration, split by content: file order does not matter."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from harness.data import chat
from harness.data.chat_template import template_text
from harness.data.columns import with_test_file
from harness.data.duplicates import asked, content, fraction, key, normalize, order, short
from harness.data.files import RowError
from harness.data.format import Example, Reading, Renderer, place, recognized
from harness.data.near_duplicates import NearDuplicates
from harness.data.rows import read
from harness.data.spill import Collector, Examples, Scratch, Sorted
from harness.records.settings import DataSpec, RowsSpec

_FEW_PROMPTS = 20
MOST_NAMED = 20  # problems of a kind that are kept with their line
_TOLD_EVERY = 2_000  # rows


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The three sets, what was removed on the way (before `max_rows`), and the hash of all examples in order.

    `removed` counts every kind of row that was left out. `problems` names the first of each kind that was found,
    `refusals` what the configuration calls an error; there are some only where `prepare` was told to go on.
    """

    train: Examples
    validation: Examples
    test: Examples
    removed_in_test: int
    removed_duplicates: int
    content_sha256: str
    given_rows: int = 0  # of the training rows, before anything was left out
    removed: dict[str, int] = field(default_factory=dict)
    problem_counts: dict[str, int] = field(default_factory=dict, compare=False)
    problems: dict[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    refusals: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = field(default=(), compare=False)  # of each source
    changes: tuple[str, ...] = field(default=(), compare=False)  # how the chat template changes messages
    sources: tuple[tuple[str, int, int], ...] = field(default=(), compare=False)  # place, rows read, rows trained on


def prepare(
    spec: DataSpec, tokenizer: Any = None, strict: bool = True, progress: Callable[[int], None] = lambda _: None
) -> Prepared:
    """Read, format, deduplicate, decontaminate, split and mix.

    A training row goes if an equal one was there before, or if its prompt occurs in a test set (with `split_by=row` its
    prompt and answer together); case and white space do not tell prompts apart. Which side a row is on and the order of
    the rows depend on their content alone, and equal prompts are on the same side. Rows that are mixed in are held
    against all rows before them, those of `data.train` and of earlier entries of `data.mix`, and it is they that go.

    Args:
        spec: which rows, and what becomes of those that are found wrong.
        tokenizer: writes chats; None will do where there are none.
        strict: False goes on where the configuration calls for an error, and returns what it would have said.
        progress: is told how many rows have been read.

    Raises:
        ValueError: rows that cannot be had or formatted, or nothing left to train on or to validate with.
    """
    return _Preparing(with_test_file(spec), tokenizer, strict, progress).result()


class _Preparing:
    """The work of `prepare`, one part after the other."""

    def __init__(self, spec: DataSpec, tokenizer: Any, strict: bool, progress: Callable[[int], None]) -> None:
        self.spec, self.strict, self.progress = spec, strict, progress
        self.tokenizer = tokenizer
        self.scratch = Scratch()
        self.problem_counts: Counter[str] = Counter()  # what is wrong, by kind
        self.removed: Counter[str] = Counter()
        self.problems: dict[str, list[str]] = {}
        self.refusals: dict[str, str] = {}
        self.read_of: Counter[str] = Counter()
        self.rows_read = 0
        self.forbidden: set[bytes] = set()
        # what rows that are mixed in are held against: digests of rows, answers of prompts, and near duplicates
        self.before: set[bytes] = set()
        self.answer_of: dict[bytes, bytes] = {}
        self.contradictory: set[bytes] = set()  # prompts that have several answers
        self.near = NearDuplicates() if spec.on_near_duplicate != "keep" else None
        self.readings: dict[str, Reading] = {}
        self.dialogues: list[chat.Dialogue] = []

    def result(self) -> Prepared:
        spec = self.spec
        test = self._test()
        given, ordered = self._ordered(spec.train)
        validation, train = Collector(self.scratch), Collector(self.scratch)
        prompts: set[bytes] = set()  # the first ones: enough to tell a few from many
        kept_of: Counter[str] = Counter()
        for example in self._kept(ordered):
            if len(prompts) < _FEW_PROMPTS:
                prompts.add(short(key(example)))
            if fraction(example, spec.split_by) < spec.validation_fraction:
                validation.add(example)
            elif spec.max_rows is None or len(train) < spec.max_rows:
                train.add(example)
                kept_of[_source(example)] += 1
            else:
                continue
            self._remember(example)
        self._check_not_empty(given, {"training": len(train), "validation": len(validation)}, len(prompts))
        for example in self._mixed(len(train)):
            train.add(example)
            kept_of[_source(example)] += 1
        parts = train.close(), validation.close(), test.close()
        return Prepared(
            train=parts[0],
            validation=parts[1],
            test=parts[2],
            removed_in_test=self.removed["in_test"],
            removed_duplicates=self.removed["duplicate"],
            content_sha256=content(parts),
            given_rows=given,
            removed={kind: number for kind, number in sorted(self.removed.items()) if number},
            problem_counts={kind: number for kind, number in sorted(self.problem_counts.items()) if number},
            problems={kind: tuple(named) for kind, named in sorted(self.problems.items())},
            refusals=tuple(self.refusals.values()),
            readings=tuple(self.readings.values()),
            changes=tuple(self._changes()),
            sources=tuple(
                (name, self.read_of[name], kept_of[name])
                for name in dict.fromkeys(map(place, (*spec.train, *spec.mix)))
            ),
        )

    def _test(self) -> Collector:
        test = Collector(self.scratch)
        for example in self._examples(self.spec.test):
            test.add(example)
            self.forbidden.add(self._asked(example))
        return test

    def _asked(self, example: Example) -> bytes:
        """Return what tells held-out rows from training rows: the prompt, or with its answer if all share one."""
        return short(asked(example, self.spec.split_by))

    def _examples(self, parts: Iterable[RowsSpec]) -> Iterator[Example]:
        """Yield rows as examples. An unusable row is noted, and is an error if the configuration says so.

        Raises:
            ValueError: also if no row has the column of the topics.
        """
        for rows in parts:
            make: Renderer | None = None
            columns: set[str] = set()  # of all rows, since one may come late
            for number, row in read(rows, self.spec.source, self.spec.path):
                self._tell()
                try:
                    if isinstance(row, RowError):
                        raise row
                    make = make or self._renderer(recognized(rows, row))
                    if not columns.issuperset(row):
                        columns.update(row)
                        self.readings[place(rows)] = make.reading(row).beside(self.readings.get(place(rows)))
                    example = make(row, number)
                except RowError as error:
                    self._unusable(error)
                    continue
                self.read_of[place(rows)] += 1
                yield example
            # topics are counted of training rows; a test file has the training rows' settings
            if rows.topic and columns and rows.topic not in columns and rows not in self.spec.test:
                raise ValueError(
                    f"{place(rows)}: topic={rows.topic}: no row has such a column, they have "
                    f"{', '.join(sorted(map(str, columns)))}; name one of them, or set topic to null"
                )

    def _tell(self) -> None:
        self.rows_read += 1
        if self.rows_read % _TOLD_EVERY == 0:
            self.progress(self.rows_read)

    def _renderer(self, rows: RowsSpec) -> Renderer:
        as_chat = self.spec.template is not None
        if not as_chat and rows.format not in ("messages", "sharegpt"):
            return Renderer(rows)
        assert self.tokenizer is not None, "who prepares chats hands over a tokenizer"
        text = template_text(self.spec.template, self.tokenizer)
        dialogue = chat.Dialogue(self.tokenizer, text) if text else None
        self.dialogues += [dialogue] if dialogue else []
        return Renderer(rows, dialogue, as_chat)

    def _unusable(self, error: RowError) -> None:
        policy = self.spec.on_empty if error.kind == "empty" else self.spec.on_malformed
        self._note(error.kind, str(error), policy)
        self.removed[error.kind] += 1

    def _note(self, kind: str, message: str, policy: str) -> None:
        """Count a problem and keep its message.

        Raises:
            ValueError: the policy is "error", and the preparation is strict.
        """
        if policy == "error":
            setting = {"not_utf8": "malformed", "in_test": "test_overlap"}.get(kind, kind)
            text = message if kind in ("malformed", "not_utf8", "empty") else f"{message} (data.on_{setting}=error)"
            if self.strict:
                raise ValueError(text)
            self.refusals.setdefault(kind, text)
        self.problem_counts[kind] += 1
        named = self.problems.setdefault(kind, [])
        if len(named) < MOST_NAMED:
            named.append(message)

    def _ordered(self, parts: Iterable[RowsSpec]) -> tuple[int, Sorted]:
        """Return (rows given, the examples in the order of their content), and note prompts that have several answers.

        Rows of earlier parts count among the answers.
        """
        ordered, given = Sorted(self.scratch), 0
        for example in self._examples(parts):
            given += 1
            ordered.add(example, order(example))
            if self.spec.on_contradiction != "keep" and example.prompt.strip():
                prompt, answer = short(key(example)), short(normalize(example.completion))
                if self.answer_of.setdefault(prompt, answer) != answer:
                    self.contradictory.add(prompt)
        return given, ordered

    def _remember(self, example: Example) -> None:
        if self.spec.mix:  # nothing else asks for it
            self.before.add(order(example))

    def _kept(self, ordered: Sorted) -> Iterator[Example]:
        """Yield what is left without duplicates, prompts of the test sets, contradictions and near duplicates."""
        spec, last, first_place = self.spec, b"", ""
        for example, digest in ordered:
            if digest == last or digest in self.before:
                twin = first_place if digest == last else "a row of data.train or of an earlier entry of data.mix"
                self._note("duplicate", f"{example.place}: the same as {twin}", spec.on_duplicate)
                if spec.on_duplicate != "keep":
                    self.removed["duplicate"] += 1
                    continue
            last, first_place = digest, example.place if digest != last else first_place
            prompt = short(key(example))
            if self._asked(example) in self.forbidden:
                what = "prompt is" if spec.split_by == "prompt" else "prompt and answer are"
                self._note("in_test", f"{example.place}: its {what} in a test set", spec.on_test_overlap)
                self.removed["in_test"] += 1
                continue
            if prompt in self.contradictory:
                message = f"{example.place}: its prompt has several answers"
                self._note("contradiction", message, spec.on_contradiction)
                self.removed["contradiction"] += 1
                continue
            near = self.near.look(example) if self.near else None
            if near is not None:
                self._note("near_duplicate", f"{example.place}: nearly the same as {near}", spec.on_near_duplicate)
                self.removed["near_duplicate"] += 1
                continue
            yield example

    def _mixed(self, num_train: int) -> Iterator[Example]:
        """Yield the rows that are mixed in: from each part the first of its order, as many as its share asks for."""
        remainder = 1 - sum(rows.share or 0 for rows in self.spec.mix)
        for rows in self.spec.mix:
            wanted = max(1, round(num_train * (rows.share or 0) / remainder))
            _, ordered = self._ordered([rows])
            # a prompt on the validation side of the split is never trained on
            usable = (
                e for e in self._kept(ordered) if fraction(e, self.spec.split_by) >= self.spec.validation_fraction
            )
            taken = list(islice(usable, wanted))
            if len(taken) < wanted:
                raise ValueError(
                    f"data.mix: share={rows.share} of all training rows means {wanted} rows beside {num_train}, and "
                    f"{place(rows)} has {len(taken)} that can be used: lower its share or give more rows"
                )
            for example in taken:
                self._remember(example)
                yield example

    def _changes(self) -> Iterator[str]:
        """Yield a line for each way in which chat templates change messages, and for what they add to them."""
        yield from dict.fromkeys(text for dialogue in self.dialogues for text in dialogue.headers.values() if text)
        for preface in dict.fromkeys(dialogue.preface for dialogue in self.dialogues if dialogue.preface):
            yield f"the chat template begins chats without a system prompt with {preface!r}"
        changes: dict[str, tuple[int, str]] = {}
        for dialogue in self.dialogues:
            for change, (number, first) in dialogue.changes.items():
                before, earliest = changes.get(change, (0, first))
                changes[change] = (before + number, earliest)
        for change, (number, first) in changes.items():
            yield f"the chat template {change} {number:,} messages, as {first}"

    def _check_not_empty(self, given: int, rows: dict[str, int], prompts: int) -> None:
        for part, number in rows.items():
            if not number and self.refusals:  # what was left out on the way is the better reason
                raise ValueError(next(iter(self.refusals.values())))
            left = sum(rows.values())
            if not number and left > prompts and prompts < _FEW_PROMPTS and self.spec.split_by == "prompt":
                have = "one prompt" if prompts == 1 else f"{prompts} prompts"
                raise ValueError(
                    f"data={self.spec.name}: no {part} rows: all {given} rows have {have}, and rows of one prompt are "
                    "on one side of the split; data.split_by=row divides them by prompt and answer together"
                )
            if not number:
                places = ", ".join(place(rows) for rows in self.spec.train) or "no rows at all"
                raise ValueError(
                    f"data={self.spec.name}: no {part} rows are left of {given} ({places}) with validation_fraction="
                    f"{self.spec.validation_fraction}, after duplicates and prompts that occur in the test rows were "
                    "removed: give more rows or another data.validation_fraction"
                )


def _source(example: Example) -> str:
    return example.place.rpartition(":")[0]
