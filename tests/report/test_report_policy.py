"""The page runs its own scripts and no other: each is listed by its hash, and none comes from a cache unchecked."""

import base64
import hashlib
import re
from importlib.metadata import version

import pytest
from browser import EXECUTABLE, Browser

from harness.report import write
from harness.report.html.bundle import SHA256, bundle
from harness.sources.assets import cache_dir

SCRIPT = re.compile(r"<script(?P<kind>[^>]*)>(?P<text>.*?)</script>", re.DOTALL)


def policy(page) -> dict[str, list[str]]:
    [content] = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    return {words[0]: words[1:] for words in map(str.split, content.split(";"))}


def test_every_script_of_a_page_is_listed_by_its_hash(tree, tmp_path):
    page = write(tree, out=tmp_path).parent.joinpath("index.html").read_text()
    scripts = [found["text"] for found in SCRIPT.finditer(page) if "application/json" not in found["kind"]]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert scripts
    assert policy(page)["default-src"] == ["'none'"]
    assert sorted(policy(page)["script-src"]) == sorted(f"'sha256-{one}'" for one in hashes)
    assert not re.search(r"\son[a-z]+\s*=", SCRIPT.sub("", page)), "a handler in an attribute is a script too"


def test_a_script_in_a_shared_cache_is_used_only_if_it_is_the_known_one(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    bundle.cache_clear()
    own = bundle()
    path = cache_dir() / f"vega-{version('vl-convert-python')}.js"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[version("vl-convert-python")]
    path.write_text("alert('poisoned'); // vegaEmbed")
    bundle.cache_clear()
    page = write(tree, out=tmp_path / "report").parent.joinpath("index.html").read_text()
    assert "poisoned" not in page
    assert path.read_text() == own, "it is mended for the next report"
    bundle.cache_clear()


@pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium on this machine")
def test_a_browser_refuses_a_script_that_is_not_listed(tree, tmp_path):
    """The page itself works (test_report_html); the same page with one more script does not run that one."""
    path = write(tree, out=tmp_path).parent / "index.html"
    path.write_text(path.read_text().replace("</main>", "</main><script>window.planted = 1</script>"))
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(path)
        browser.wait("window.frontier && document.querySelector('#frontier svg')")
        assert browser.evaluate("typeof window.planted") == "undefined"
    finally:
        browser.close()
