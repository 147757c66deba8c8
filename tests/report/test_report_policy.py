"""The page runs its own script and no other: it is listed by its hash."""

import base64
import hashlib
import re

import pytest
from browser import EXECUTABLE, Browser

from harness.report import write

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


@pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium on this machine")
def test_a_browser_refuses_a_script_that_is_not_listed(tree, tmp_path):
    """The page itself works (test_report_html); the same page with one more script does not run that one."""
    path = write(tree, out=tmp_path).parent / "index.html"
    path.write_text(path.read_text().replace("</main>", "</main><script>window.planted = 1</script>"))
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(path)
        browser.evaluate("window.ready")
        assert browser.evaluate("document.querySelectorAll('#comparison tbody tr').length") > 0
        assert browser.evaluate("typeof window.planted") == "undefined"
    finally:
        browser.close()
