"""Vega, Vega-Lite and vega-embed as one script, bundled by vl-convert: part of the page, so that it opens offline."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.metadata import version

from harness.records.record import write_bytes
from harness.sources.assets import cache_dir

_ENTRY = "window.vegaEmbed = vegaEmbed;"  # the bundle holds only the code that is reached from here
# The cache may be shared, and the script runs in the browser of whoever opens a report. A script from it is used only
# if it has the SHA-256 that vl-convert's own has; one of another version is bundled anew, which takes two seconds.
SHA256 = {"1.9.0.post1": "373b1f84072b31010f15ceb787be6b415c53936411aae267c8c2b2b6ccde46e7"}


@cache
def bundle() -> str:
    """Return the script. Its bytes follow from the version of vl-convert."""
    expected = SHA256.get(version("vl-convert-python"))
    path = cache_dir() / f"vega-{version('vl-convert-python')}.js"
    if path.is_file() and hashlib.sha256(script := path.read_bytes()).hexdigest() == expected:
        return script.decode()
    import vl_convert

    text: str = vl_convert.javascript_bundle(_ENTRY)
    assert "vegaEmbed" in text, "the bundle lacks what the page calls"
    assert "</script" not in text, "the bundle would end its own element"
    if expected is not None:
        write_bytes(text.encode(), path)
    return text


def script_hash(script: str) -> str:
    """Return the source of an inline script as a Content-Security-Policy lists it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
