"""Chats: messages of ChatML and ShareGPT, written out by a chat template, with the assistant's words marked."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from harness.data.chat_template import template_text
from harness.data.files import RowError
from harness.records.settings import DataSpec

Message = dict[str, str]  # role and content
ROLES = ("system", "user", "assistant", "tool")
SYSTEM = ("system", "system_prompt", "system_message")  # columns with a system prompt
SHAREGPT = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "model": "assistant", "function_call": "assistant", "observation": "tool", "tool": "tool", "system": "system",
}  # fmt: skip
# columns that would change the model's input and that nothing here writes
_NOT_WRITTEN = ("tools", "functions", "tool_calls", "function_call")
_THOUGHTS = ("reasoning", "reasoning_content", "thinking", "thought")
_MARKS = ("weight", "train", "training", "loss", "trainable", "train_on_turn")  # of several programs' formats
_READ = ("role", "content", "from", "value", *_MARKS)  # of a message
_UNREAD_MARKS = ("mask", "masked", "loss_mask", "loss_scale", "loss_weight", "train_detail")
_MOST_HEADERS = 5  # texts before answers that are noted
_MARK = "\u2063answer\u2063"  # no template writes this


@dataclass(frozen=True)
class Written:
    """A chat as text: all before the last answer, the answer, what closes it, and earlier answers by their places.

    `muted` are those earlier answers whose weight is 0.
    """

    prompt: str
    completion: str
    ending: str
    turns: tuple[tuple[int, int], ...]
    muted: tuple[tuple[int, int], ...] = ()


def messages(row: dict[str, Any], kind: str, where: str) -> list[Message]:
    """Return the messages of a row, ending with an answer of the assistant.

    Raises:
        RowError: the column holds no list of messages, one lacks a role or text, or no answer is at the end.
    """
    column = columns(row, kind)[0]
    turns = row["prompt"] + row["completion"] if column == "prompt" else row.get(column)
    if not isinstance(turns, list):
        raise RowError("malformed", f"{where}: {column} must be a list of messages, it is a {type(turns).__name__}")
    if not turns:
        raise RowError("empty", f"{where}: {column} has no message; fill it or leave the row out")
    _refuse_tools(row, f"{where}: the row")
    result = [_message(turn, f"{where}: message {index}") for index, turn in enumerate(turns, start=1)]
    result = _with_system(result, system(row, where), where)
    if result[-1]["role"] != "assistant":
        raise RowError(
            "malformed",
            f"{where}: the last message is the {result[-1]['role']}'s, and there is no answer to learn; cut it off",
        )
    if any(message["role"] == "assistant" and not message["content"].strip() for message in result):
        raise RowError("empty", f"{where}: an answer is empty; fill it or leave the row out")
    if result[-1].get("weight") == "0":
        raise RowError("malformed", f"{where}: the last answer has weight 0, and it is the one to learn; cut it off")
    return result


def unwritten(row: dict[str, Any], kind: str) -> Iterator[tuple[int, str]]:
    """Yield (number of a message, name) of what a row's messages say beside their role and text."""
    every = [message for column in columns(row, kind) for message in row[column]]
    for number, message in enumerate(every, start=1):
        for name, value in message.items():
            if name not in _READ and value not in (None, "", [], {}):
                yield number, str(name)


def columns(row: dict[str, Any], kind: str) -> tuple[str, ...]:
    """Return the columns that hold a row's messages, which may be divided into those of prompt and of completion."""
    column = "messages" if kind == "messages" else "conversations"
    return ("prompt", "completion") if column not in row and is_divided(row) else (column,)


def system(row: dict[str, Any], where: str) -> str:
    """Return the system prompt that a row has in a column of its own; "" if it has none.

    Raises:
        RowError: it is no text, or there are several.
    """
    given = {name: row[name] for name in SYSTEM if row.get(name) not in (None, "")}
    for name, value in given.items():
        if not isinstance(value, str):
            raise RowError("malformed", f"{where}: {name} must be text, it is {type(value).__name__}")
    texts = {value for value in given.values() if value.strip()}
    if len(texts) > 1:
        raise RowError("malformed", f"{where}: {' and '.join(given)} differ; data.train.0.ignore=[...] leaves one out")
    return next(iter(texts), "")


def _with_system(messages: list[Message], system: str, where: str) -> list[Message]:
    """Return the messages behind the system prompt of the row's column.

    Raises:
        RowError: the messages begin with another one.
    """
    if not system:
        return messages
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    if messages[0]["content"] != system:
        raise RowError(
            "malformed",
            f"{where}: the system prompt of the row's column and that of its first message differ; "
            "data.train.0.ignore=[system] leaves the column out",
        )
    return messages


def is_divided(row: dict[str, Any]) -> bool:
    """Return whether prompt and completion are lists of messages."""
    return all(isinstance(row.get(name), list) for name in ("prompt", "completion"))


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise RowError("malformed", f"{where} is a {type(message).__name__}, not a role and a text")
    _refuse_tools(message, where)
    role_key, text_key = ("from", "value") if "from" in message else ("role", "content")
    role, text = message.get(role_key), _joined(message.get(text_key))
    allowed = ROLES if role_key == "role" else tuple(SHAREGPT)
    if role not in allowed:
        raise RowError("malformed", f"{where}: {role_key}={role!r}, it must be {', '.join(allowed)}")
    if not isinstance(text, str):
        raise RowError("malformed", f"{where}: {text_key} must be text, it is {type(text).__name__}")
    role = role if role_key == "role" else SHAREGPT[role]
    return {"role": role, "content": text, **({"weight": "0"} if _is_muted(message, role, where) else {})}


def _is_muted(message: dict[str, Any], role: str, where: str) -> bool:
    """Return whether an answer is marked as not to be learned: `weight: 0`, `train: false`, `loss: false` and so on.

    Raises:
        RowError: a mark that is neither 0 nor 1 or means something else, a 1 at a message that is no answer, or
            thoughts beside the text.
    """
    if lost := [name for name in _THOUGHTS if message.get(name) not in (None, "")]:
        raise RowError(
            "malformed", f"{where} has {', '.join(lost)} beside its text, which is not written; put it into the text"
        )
    if unread := [name for name in _UNREAD_MARKS if message.get(name) is not None]:
        raise RowError(
            "malformed",
            f"{where} has {', '.join(unread)}; what is learned is said by weight: 0 (not learned) or 1 (learned)",
        )
    marks = {name: message[name] for name in _MARKS if message.get(name) is not None}
    for name, value in marks.items():
        if value not in (0, 1):  # False and True among them
            raise RowError("malformed", f"{where}: {name}={value!r}; it must be 0 (not learned) or 1 (learned)")
        if value and role != "assistant":
            raise RowError(
                "malformed", f"{where}: {name}={value!r} of the {role}'s message; answers of the assistant are learned"
            )
    return role == "assistant" and any(not value for value in marks.values())


def _joined(content: Any) -> Any:
    """Return text that is given in parts as one string; return anything else unchanged."""
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    return "".join(map(str, texts)) if texts and all(isinstance(text, str) for text in texts) else content


def _refuse_tools(message: dict[str, Any], where: str) -> None:
    named = [name for name in _NOT_WRITTEN if message.get(name) not in (None, "", "[]", [], {})]
    if named:
        raise RowError(
            "malformed", f"{where} has {', '.join(named)}, which are not written; put them into the messages as text"
        )


def is_asked_for(spec: DataSpec) -> bool:
    """Return whether a chat template writes rows of these data."""
    parts = (*spec.train, *spec.test, *spec.mix)
    return spec.template is not None or any(rows.format in ("messages", "sharegpt") for rows in parts)


def closing(spec: DataSpec, tokenizer: Any) -> str:
    """Return the end of an answer as far as it is plain text to the tokenizer; "" if special tokens alone end it."""
    text = template_text(spec.template, tokenizer) if is_asked_for(spec) else None
    if text is None:
        return ""
    try:
        ending = Dialogue(tokenizer, text)(
            [{"role": role, "content": "a"} for role in ("user", "assistant")], ""
        ).ending
    except RowError:  # a template for chats of another shape
        return ""
    ids = tokenizer.encode(ending, add_special_tokens=False)
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


class Dialogue:
    """Writes chats with a chat template, and locates the assistant's words by writing a mark in their place."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        self._tokenizer, self._template = tokenizer, template
        self.changes: dict[str, tuple[int, str]] = {}  # how messages are changed -> how many, and the first one's place
        # texts before last answers -> what is to be said of them, since evaluations ask with the generation prompt
        self.headers: dict[str, str] = {}
        self.preface: str | None = None  # what the template writes before a chat that has no system prompt
        self._written: list[str] | None = None  # special tokens that the template writes

    def __call__(self, chat: list[Message], where: str) -> Written:
        """Return the chat as text.

        Raises:
            RowError: the template refuses this chat, or rewrites an answer so that it is not found.
        """
        self._refuse_written(chat, where)
        if self.preface is None and chat[0]["role"] == "user":
            self.preface = self._preface(chat, where)
        whole = self._write(chat, where)
        self._note_changes(chat, whole, where)
        answers = [index for index, message in enumerate(chat) if message["role"] == "assistant"]
        spans = [self._span(chat, index, whole, where) for index in answers]
        begin, end = spans[-1]
        self._note_header(chat, whole[:begin], where)
        ending = whole[end:].rstrip()  # a line end after the closing token is never generated
        turns = self._turns(chat, spans[:-1], answers, whole, where)
        muted = tuple(turn for turn, i in zip(turns, answers, strict=False) if chat[i].get("weight") == "0")
        learnt = tuple(turn for turn in turns if turn not in muted)
        return Written(whole[:begin], whole[begin:end], ending, learnt, muted)

    def _refuse_written(self, chat: list[Message], where: str) -> None:
        """Refuse messages that hold special tokens of the template: the model would read them as turns.

        Raises:
            RowError: names the message and the token.
        """
        if self._written is None:
            self._written = self._special_tokens()
        for number, message in enumerate(chat, start=1):
            for token in self._written:
                if token in message["content"]:
                    raise RowError(
                        "malformed",
                        f"{where}: message {number} holds {token}, which the chat template writes itself; take it out "
                        "of the text, or give rows that are templated already as format=text or prompt_completion",
                    )

    def _special_tokens(self) -> list[str]:
        """Return the special tokens that the template writes around a question and its answer."""
        try:
            text = self._write([{"role": role, "content": "a"} for role in ("user", "assistant")], "")
        except RowError:  # a template for chats of another shape
            return []
        added = self._tokenizer.added_tokens_decoder.values()
        special = {*self._tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
        return sorted(token for token in special if token in text)

    def _preface(self, chat: list[Message], where: str) -> str:
        """Return the text that the template puts before the first question, as its own system prompt; "" if none."""
        question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}
        try:
            before = self._write(_marked(chat, 0), where).partition(_MARK)[0]
            between = self._write([question, answer, question], where).partition(_MARK)[2].rpartition("a")[0]
        except RowError:  # a template for chats of another shape
            return ""
        header = next(between[i:] for i in range(len(between) + 1) if before.endswith(between[i:]))  # of a question
        preface = before.removesuffix(header)
        plain = re.sub("|".join(map(re.escape, self._tokenizer.all_special_tokens)) or "$^", "", preface)
        return preface if re.search(r"\w", plain) else ""

    def _note_header(self, chat: list[Message], before: str, where: str) -> None:
        """Note the template's text before an answer, once for each such text.

        A template may write it in some chats only, as an empty thought where an answer has none.
        """
        content = chat[-2]["content"].strip() if len(chat) > 1 else ""
        header = before.rpartition(content)[2] if content else before
        if header in self.headers or len(self.headers) >= _MOST_HEADERS:
            return
        try:
            prompt = self._write(chat[:-1], where, add_generation_prompt=True)
        except RowError:  # a template for chats of another shape
            return
        self.headers[header] = "" if before == prompt else _of_header(before, prompt, where)

    def _note_changes(self, chat: list[Message], whole: str, where: str) -> None:
        """Note the messages that do not stand in the text as they were given."""
        for number, message in enumerate(chat, start=1):
            content = message["content"]
            if content in whole:
                continue
            is_cut = bool(content.strip()) and content.strip() in whole
            change = "cuts white space around" if is_cut else "leaves out or changes parts of"
            self.note(change, f"{where}, message {number} ({message['role']})")

    def note(self, change: str, where: str) -> None:
        """Count a message that is not written as it was given."""
        count, first = self.changes.get(change, (0, where))
        self.changes[change] = (count + 1, first)

    def _span(self, chat: list[Message], index: int, whole: str, where: str) -> tuple[int, int]:
        before, mark, after = self._write(_marked(chat, index), where).partition(_MARK)
        if not whole.startswith(before):  # templates write an empty thought where an answer, as the mark, has none
            before = next((prompt for prompt in self._asking(chat[:index], where) if whole.startswith(prompt)), before)
        begin, end = len(before), len(whole) - len(after)
        if not (mark and whole.startswith(before) and whole.endswith(after) and begin < end):
            raise RowError(
                "malformed",
                f"{where}: the chat template does not write message {index + 1} as it stands, so that what is to be "
                "learned cannot be told from the rest; use another data.template",
            )
        return begin, end

    def _asking(self, chat: list[Message], where: str) -> Iterator[str]:
        """Yield the texts with which an answer is asked for, behind which it begins together with its thoughts."""
        for options in ({}, {"enable_thinking": True}):
            with suppress(RowError):  # a template for chats of another shape
                yield self._write(chat, where, add_generation_prompt=True, **options)

    def _turns(
        self, chat: list[Message], spans: list[tuple[int, int]], answers: list[int], whole: str, where: str
    ) -> tuple[tuple[int, int], ...]:
        """Return the spans of earlier answers, each with the text that closes it."""
        turns = []
        for index, (begin, end) in zip(answers, spans, strict=False):
            alone = self._write(_marked(chat[: index + 1], index), where).partition(_MARK)[2].rstrip()
            closed = end + len(alone) if whole.startswith(alone, end) else end
            turns.append((begin, closed))
        return tuple(turns)

    def _write(self, chat: list[Message], where: str, **options: bool) -> str:
        from jinja2 import TemplateError

        plain = [{"role": message["role"], "content": message["content"]} for message in chat]
        try:
            return str(
                self._tokenizer.apply_chat_template(plain, tokenize=False, chat_template=self._template, **options)
            )
        except (TemplateError, ValueError, TypeError, LookupError) as error:
            text = " ".join(str(error).split())
            raise RowError("malformed", f"{where}: the chat template refuses this chat: {text}") from error


def _of_header(before: str, prompt: str, where: str) -> str:
    """Return a sentence on an answer that stands behind another text than evaluations with this template ask with."""
    own = before.removeprefix(prompt)
    if own != before:
        return (
            f"the chat template writes {own!r} before the answers, behind its generation prompt, as in {where}: it is "
            "seen and not learned, and evaluations with eval.chat_template=true ask without it"
        )
    return (
        f"the chat template writes {before[-40:]!r} before the answers, as in {where}, and its generation prompt, with "
        f"which evaluations with eval.chat_template=true ask, ends in {prompt[-40:]!r}"
    )


def _marked(chat: list[Message], index: int) -> list[Message]:
    return [{**message, "content": _MARK} if i == index else message for i, message in enumerate(chat)]
