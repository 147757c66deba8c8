"""Vega, Vega-Lite and vega-embed as one script, bundled by vl-convert: part of the page, so that it opens offline."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from harness.records.record import write_text
from harness.sources.assets import cache_dir

_ENTRY = "window.vegaEmbed = vegaEmbed;"  # the bundle holds only the code that is reached from here


@cache
def bundle() -> str:
    """Return the script, cached by the version of vl-convert, which decides its bytes. Bundling takes seconds."""
    kept = cache_dir() / f"vega-{version('vl-convert-python')}.js"
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    import vl_convert

    text: str = vl_convert.javascript_bundle(_ENTRY)
    assert "vegaEmbed" in text, "the bundle lacks what the page calls"
    assert "</script" not in text, "the bundle would end its own element"
    write_text(text, kept)
    return text
