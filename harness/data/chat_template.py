"""The chat template that a data configuration names, the same on every day."""

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

# The date that Llama 3.1's template writes if none is given. Templates that ask for today's date get it as well, or
# rows would change from day to day.
_DAY = date(2024, 7, 26)
_TODAY = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")


def template_text(template: str | None, tokenizer: Any) -> str | None:
    """Return the chat template that `data.template` names, from a file or the tokenizer; None if that has none.

    A template that writes today's date gets a fixed date instead, so that rows and prompts are the same on every day.

    Raises:
        ValueError: no such file, or the model was named and has none.
    """
    own = tokenizer.chat_template
    if isinstance(own, dict):  # several by name
        own = own.get("default")
    if template in (None, "model"):
        if template == "model" and not own:
            raise ValueError("data.template=model: this model's tokenizer has no chat template; name a .jinja file")
        return _of_one_day(str(own)) if own else None
    return _of_one_day(template_file(str(template)).read_text(encoding="utf-8"))


def _of_one_day(template: str) -> str:
    return _TODAY.sub(lambda call: json.dumps(_DAY.strftime(call[2])), template)


def template_file(template: str) -> Path:
    """Return the file that `data.template` names.

    Raises:
        ValueError: there is no such file.
    """
    path = Path(template)
    if not path.is_file():
        raise ValueError(
            f"data.template={template}: no such file, looked for from {Path.cwd()}; give null (chats by the model's "
            "chat template, other rows plain), model (every row by it) or the path of a jinja file"
        )
    return path
