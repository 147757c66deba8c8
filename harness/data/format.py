"""From rows to prompts and completions: jinja templates with the semantics of `lm_eval.utils.apply_template` 0.4.13.

Formats that are known by name come down to templates, or to the messages of a chat (`harness.data.chat`).
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from harness.data import chat
from harness.data.files import RowError
from harness.records.settings import RowsSpec, unread_escape

if TYPE_CHECKING:
    from jinja2 import Environment, Template

# Taori et al. 2023, github.com/tatsu-lab/stanford_alpaca, prompt.py; with a line end before the response
ALPACA = (
    "{% if input %}Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n{{instruction}}\n\n### Input:\n"
    "{{input}}\n\n### Response:\n{% else %}Below is an instruction that describes a task. Write a response that "
    "appropriately completes the request.\n\n### Instruction:\n{{instruction}}\n\n### Response:\n{% endif %}"
)
ALPACA_TURN = "{{instruction}}{% if input %}\n\n{{input}}{% endif %}"  # where a chat template writes the rest
TEMPLATES = {
    "prompt_completion": ("{{prompt}}", "{{completion}}"),
    "alpaca": (ALPACA, "{{output}}"),
    "text": ("", "{{text}}"),
}
# columns that say something about a row, beside those that each format uses; capitals, spaces and hyphens are alike
MEANINGFUL = (
    *chat.SYSTEM, "instruction", "instructions", "context", "contexts", "passage", "document", "documents",
    "background", "knowledge", "evidence", "history", "chat_history", "input", "inputs", "label", "labels",
    "label_text", "class", "sentiment", "target", "targets", "weight", "weights", "loss_weight", "sample_weight",
    "reasoning", "reasoning_content", "thinking", "thought", "thoughts", "rationale", "explanation", "cot",
    "chain_of_thought", "scratchpad", "tools", "functions", "image", "images", "audio", "video", "chosen", "rejected",
    "split",
)  # fmt: skip
# columns that make a text one part of a row
BESIDE_TEXT = (
    "prompt", "completion", "question", "query", "answer", "answers", "response", "output", "outputs", "summary",
    "translation", "reply",
)  # fmt: skip
_CODE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
# formats and the columns that show them, the most specific first
RECOGNIZED = (
    ("messages", ("messages",)),
    ("sharegpt", ("conversations",)),
    ("alpaca", ("instruction", "output")),
    ("prompt_completion", ("prompt", "completion")),
    ("text", ("text",)),
)


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, its completion, and the ending of a chat's turn; together they are the whole text."""

    prompt: str
    completion: str
    ending: str = ""  # what a chat template closes the answer with: learned, not scored
    turns: tuple[tuple[int, int], ...] = ()  # (begin, end) in the prompt of earlier answers of the assistant
    is_chat: bool = False  # special tokens stand in the text, and none is added
    place: str = field(default="", compare=False)
    topic: str = field(default="", compare=False)
    muted: tuple[tuple[int, int], ...] = ()  # (begin, end) in the prompt of earlier answers with weight 0: not learned

    @property
    def identity(self) -> list[Any]:
        """Return the fields that make two examples equal."""
        return [self.prompt, self.completion] + (
            [self.ending, self.turns, *([self.muted] if self.muted else [])] if self.is_chat else []
        )


def place(spec: RowsSpec) -> str:
    """Return the name of rows in a message: their file or folder, or data set and subset, and their split."""
    parts = (spec.file, spec.split) if spec.file else (spec.dataset, spec.subset, spec.split)
    return " ".join(part for part in parts if part)


def recognized(spec: RowsSpec, row: dict[str, Any]) -> RowsSpec:
    """Return the same rows with their format named, or with the templates that it stands for.

    A format that is given goes before the one that the columns show.

    Raises:
        ValueError: no format fits the columns, or a format was named beside templates.
    """
    if spec.format not in ("auto", "template") and (spec.prompt is not None or spec.completion is not None):
        raise ValueError(
            f"{place(spec)}: format={spec.format} beside a prompt or completion template; leave one of the two out"
        )
    kind: str = spec.format
    if kind in ("auto", "template"):
        kind = "template" if spec.prompt is not None or spec.completion is not None else _shown(spec, row)
    if kind == "template":
        prompt, completion = (TEMPLATES["prompt_completion"][i] for i in range(2))
        prompt = spec.prompt if spec.prompt is not None else prompt
        completion = spec.completion if spec.completion is not None else completion
        return dataclasses.replace(spec, format="auto", prompt=prompt, completion=completion)
    if kind == "prompt_completion":
        prompt, completion = TEMPLATES[kind]
        return dataclasses.replace(spec, format="auto", prompt=prompt, completion=completion)
    return dataclasses.replace(spec, format=kind)  # type: ignore[arg-type]


def _shown(spec: RowsSpec, row: dict[str, Any]) -> str:
    if chat.is_divided(row):
        return "messages"
    for name, columns in RECOGNIZED:
        if all(column in row for column in columns):
            return name
    formats = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in RECOGNIZED)
    raise ValueError(
        f"{place(spec)}: the columns {', '.join(sorted(map(str, row)))} show no format that is known ({formats}). Give "
        "templates, as in 'data.train.0.prompt=\"{{question}}\"' 'data.train.0.completion=\" {{answer}}\"'"
    )


@dataclass(frozen=True)
class Reading:
    """Format of rows as recognized, or "templates", with the columns that it uses and those that it does not."""

    place: str
    format: str
    used: tuple[str, ...]
    unused: tuple[str, ...]

    def beside(self, earlier: "Reading | None") -> "Reading":
        """Return the reading of these rows and of earlier ones together."""
        if earlier is None:
            return self
        used = tuple(dict.fromkeys((*earlier.used, *self.used)))
        unused = tuple(name for name in dict.fromkeys((*earlier.unused, *self.unused)) if name not in used)
        return dataclasses.replace(earlier, used=used, unused=unused)


class Renderer:
    """Makes an example of a row.

    Args:
        spec: the rows, with their format named.
        dialogue: writes chats; None where no chat template is at hand.
        as_chat: whether a prompt and its completion are a turn each of a chat.
    """

    def __init__(self, spec: RowsSpec, dialogue: chat.Dialogue | None = None, as_chat: bool = False) -> None:
        self._spec, self._dialogue = spec, dialogue
        self._as_chat = as_chat or spec.format in ("messages", "sharegpt")
        if self._as_chat and spec.format == "text":
            raise ValueError(f"{place(spec)}: plain text has no turns for data.template to write; set it to null")
        if self._as_chat and dialogue is None:
            raise ValueError(
                f"{place(spec)}: chats, and this model's tokenizer has no chat template: give data.template=<a jinja "
                "file>, or take an instruction-tuned model"
            )
        texts = TEMPLATES.get(spec.format, (spec.prompt or "", spec.completion or ""))
        self._templates_as_given = texts
        if self._as_chat:  # white space that a template puts between prompt and completion is the chat template's
            texts = ALPACA_TURN if spec.format == "alpaca" else texts[0].rstrip(), texts[1].lstrip()
        self._texts = texts
        self._templates = tuple(_compile(text) for text in texts)

    def __call__(self, row: dict[str, Any], number: int) -> Example:
        """Return the example of row `number`.

        Raises:
            RowError: the row lacks a column that a template names or holds null there, its completion is empty, or its
                messages are no chat; names the row, the template and the columns that exist.
        """
        where = f"{place(self._spec)}:{number}"
        topic = row.get(self._spec.topic) if self._spec.topic else None
        row = {name: value for name, value in row.items() if name not in self._spec.ignore}
        extra = {"place": where, "topic": "" if topic is None else str(topic)}
        if self._spec.format in ("messages", "sharegpt"):
            self._refuse_unused(row, where)
            return self._given_chat(row, where, extra)
        system = self._system(row, where)
        self._refuse_unused(row, where)
        if self._spec.format == "alpaca":
            row = {"input": "", **{name: value for name, value in row.items() if value is not None}}
        prompt, completion = (
            _fill(template, text, row, where) for template, text in zip(self._templates, self._texts, strict=True)
        )
        if not completion.strip():
            example = self._texts[1]
            raise RowError("empty", f"{where}: the completion {example!r} is empty; fill it or leave the row out")
        if not self._as_chat:
            return Example(prompt, completion, **extra)  # type: ignore[arg-type]
        turns = [*system, ("user", prompt), ("assistant", completion)]
        return self._chat([{"role": role, "content": content} for role, content in turns], where, extra)

    def reading(self, row: dict[str, Any]) -> Reading:
        """Return how such a row is read."""
        used = [name for name in map(str, row) if self._is_used(name, row)]
        unused = [name for name in map(str, row) if name not in used]
        kind: str = self._spec.format
        if kind == "auto":
            is_plain = self._templates_as_given == TEMPLATES["prompt_completion"]
            kind = "prompt and completion" if is_plain else "templates"
        return Reading(place(self._spec), kind, tuple(used), tuple(unused))

    def _is_used(self, column: str, row: dict[str, Any]) -> bool:
        """Return whether a column reaches the text, or the topic of a row."""
        if column == self._spec.topic:
            return True
        if column in self._spec.ignore:
            return False
        if self._as_chat and column in chat.SYSTEM:
            return True
        if self._spec.format in ("messages", "sharegpt"):
            return column in chat.columns(row, self._spec.format)
        return self._names((column,))

    def _system(self, row: dict[str, Any], where: str) -> list[tuple[str, str]]:
        """Return the row's system prompt as a turn, where a chat template writes the turns."""
        if not self._as_chat or self._names(chat.SYSTEM):
            return []
        text = chat.system(row, where)
        return [("system", text)] if text else []

    def _names(self, columns: tuple[str, ...]) -> bool:
        """Return whether a template names one of the columns."""
        code = " ".join(part for text in self._texts for part in _CODE.findall(text))
        return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", code) for name in columns)

    def _refuse_unused(self, row: dict[str, Any], where: str) -> None:
        """Refuse columns that say something about the row and are written nowhere.

        Raises:
            RowError: names them.
        """
        if self._spec.format == "auto" and self._texts != TEMPLATES["prompt_completion"]:
            return  # whoever writes templates has chosen the columns
        refused_by_chat = ("tools", "functions") if self._spec.format in ("messages", "sharegpt") else ()
        unused = [
            name
            for name, value in row.items()
            if value not in (None, "", [], {})
            and _has_meaning(str(name), value, self._spec.format)
            and name not in refused_by_chat  # in its own words
            and not self._is_used(name, row)
        ]
        if unused:
            kind = {"auto": "prompt and completion"}.get(self._spec.format, self._spec.format)
            raise RowError(
                "malformed",
                f"{where}: {kind} leaves {', '.join(unused)} out; name it in a template (data.train.0.prompt=...), or "
                f"say that it is meant with data.train.0.ignore=[{','.join(unused)}]",
            )

    def _given_chat(self, row: dict[str, Any], where: str, extra: dict[str, str]) -> Example:
        example = self._chat(chat.messages(row, self._spec.format, where), where, extra)
        assert self._dialogue is not None, "__init__ has seen to it"
        for message, name in chat.unwritten(row, self._spec.format):
            self._dialogue.note(f"leaves out {name} of", f"{where}, message {message}")
        return example

    def _chat(self, messages: list[chat.Message], where: str, extra: dict[str, str]) -> Example:
        assert self._dialogue is not None, "__init__ has seen to it"
        written = self._dialogue(messages, where)
        return Example(
            written.prompt,
            written.completion,
            written.ending,
            written.turns,
            True,
            extra["place"],
            extra["topic"],
            written.muted,
        )


def _has_meaning(column: str, value: Any, kind: str) -> bool:
    """Return whether a column says something about its row that a format must not pass over."""
    name = _plain_name(column)
    if name == "split":
        return isinstance(value, str) and not value.strip().lower().startswith("train")
    return name in MEANINGFUL or (kind == "text" and name in BESIDE_TEXT)


@cache
def _plain_name(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.strip().lower())


def render(rows: list[dict[str, Any]], spec: RowsSpec) -> list[Example]:
    """Return one example per row, in order.

    Raises:
        ValueError: a template is wrong, or as `Renderer` raises.
    """
    spec = recognized(spec, rows[0] if rows else {"prompt": "", "completion": ""})
    make: Callable[[dict[str, Any], int], Example] = Renderer(spec)
    return [make(row, number) for number, row in enumerate(rows, start=1)]


@cache
def _environment() -> "Environment":
    from jinja2 import StrictUndefined, nodes
    from jinja2.sandbox import SandboxedEnvironment

    class Columns(SandboxedEnvironment):  # type: ignore[misc]
        """Reads `x.values` as the key of a nested column, not as the method of that name; joins nothing but text."""

        def getattr(self, obj: Any, attribute: str) -> Any:
            if isinstance(obj, dict) and attribute in obj:
                return obj[attribute]
            return super().getattr(obj, attribute)

        def _parse(self, *arguments: Any) -> nodes.Template:
            tree: nodes.Template = super()._parse(*arguments)
            for node in tree.find_all(nodes.Concat):
                node.nodes = [nodes.Filter(part, "part", [], [], None, None) for part in node.nodes]
            return tree

    # lm-eval's settings, but a null or a list is an error here: lm-eval would print None, or the list as Python does
    environment = Columns(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_text)
    environment.filters |= {"regex_replace": _regex_replace, "part": _text, "string": _string, "join": _joined}
    return environment


def _regex_replace(text: str, pattern: str, replacement: str, count: int = 0) -> str:
    return re.sub(pattern, replacement, text, count=count)


def _string(value: Any) -> str:
    return str(value if isinstance(value, bool) else _text(value))


def _joined(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    return separator.join(str(_text(value if attribute is None else value[attribute])) for value in values)


def _text(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("a value is null" if value is None else f"a value is {value}, which is no number")
    from jinja2 import Undefined

    if isinstance(value, bool):
        raise ValueError(f"a value is no text but {value}: write what it means, as in {{{{ 'yes' if x else 'no' }}}}")
    if not isinstance(value, int | float | Decimal | Undefined):  # jinja itself reports an undefined name
        raise ValueError(f"a value is no text but a {type(value).__name__}: name a part of it, join or convert it")
    return value


def _compile(template: str) -> "Template":
    from jinja2 import TemplateSyntaxError

    outside = _CODE.sub("", template)
    if escape := unread_escape(outside):
        raise ValueError(
            f"template {template!r}: {escape} is a backslash and a letter there, and would be trained so. Write "
            f"{{{{ '{escape}' }}}} for the sign that it stands for, and {{{{ '\\\\' }}}} for a backslash"
        )
    try:
        return _environment().from_string(template)
    except TemplateSyntaxError as error:
        raise ValueError(
            f"template {template!r} is not valid jinja: {error.message}; write a column as {{{{name}}}}, or as "
            "{{row['its name']}} where the name is no word"
        ) from error


def _fill(template: "Template", text: str, row: dict[str, Any], where: str) -> str:
    from jinja2 import TemplateError

    try:
        return str(template.render({"row": row, **row}))
    except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise RowError(
            "malformed",
            f"{where}: template {text!r}: {error}; the row's columns are {', '.join(sorted(row))}. "
            "Correct the template in the data config, or the row; {{row['a name']}} is any column",
        ) from error
