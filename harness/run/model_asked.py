"""A model as a person names it, on the command line or in an adapter's configuration, as settings."""

from __future__ import annotations

import re
from pathlib import Path

from harness.config.overrides import verbatim
from harness.sources.packages import conf_dir


def names() -> list[str]:
    """Return the names of the models in `conf/model`."""
    return sorted(file.stem for file in (conf_dir() / "model").glob("*.yaml"))


def words(name: str) -> list[str]:
    """Return the settings of a model by its name in `conf/model`, its folder, or its id on the Hub.

    Raises:
        ValueError: it is none of these.
    """
    if name in names():
        return [f"model={name}"]
    if (Path(name) / "config.json").is_file():
        path = Path(name).resolve()
        own = [f"model.path={verbatim(str(path))}", f"model.name={_plain(path.name)}"]
        return ["model.source=path", *own, "model.license=null"]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists():
        short = _plain(name.rpartition("/")[2].lower())
        return ["model.source=hub", f"model.hub_id={name}", "model.revision=main", f"model.name={short}"]
    raise ValueError(
        f"{name}: no run (record.json), no model folder (config.json), no id on the Hub (owner/name) and not one of "
        f"{', '.join(names())}"
    )


def _plain(name: str) -> str:
    return verbatim(re.sub(r"[^\w.-]", "-", name).lstrip("-.") or "model")
