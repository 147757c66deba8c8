"""index.html: what it holds, and that it works offline in a real browser: sort, filter, hover, choose, drill down."""

import dataclasses
import json
import re

import pytest
from browser import EXECUTABLE, Browser
from conftest import HOSTILE

from harness.report import write
from harness.report.analysis.axes import qualities
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Measure
from harness.report.data.load import load
from harness.report.figures import forgetting, pareto
from harness.report.html.charts import frontier
from harness.report.writers import folder as files

needs_browser = pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def folder(tree, tmp_path_factory):
    return write(tree, out=tmp_path_factory.mktemp("html") / "report").parent


@pytest.fixture(scope="module")
def path(folder):
    return folder / "index.html"


@pytest.fixture(scope="module")
def browser(path, tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    opened.open(path)
    opened.wait("window.frontier && window.curves && document.querySelector('#curves svg')")
    yield opened
    opened.close()


@pytest.fixture
def external(tuned_report, tmp_path):
    opened = Browser(tmp_path / "profile")
    opened.open(tuned_report / "index.html")
    opened.wait("window.frontier && document.querySelector('#frontier svg')")
    yield opened
    opened.close()


def content(path) -> dict:
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(found[1])


def column(browser, number) -> list[str]:
    """The texts of a column of the comparison, from the top."""
    cells = f"[...document.querySelectorAll('#comparison tbody tr')].map((row) => row.cells[{number}].innerText)"
    return browser.evaluate(cells)


def test_the_page_is_one_file_small_enough_to_send_and_the_same_twice(path, tree, tmp_path):
    assert path.stat().st_size < 1_000_000
    assert write(tree, out=tmp_path).parent.joinpath("index.html").read_bytes() == path.read_bytes()


def test_no_text_of_a_record_becomes_markup(path):
    assert any(HOSTILE.split(" ")[0] in reason for reason in content(path)["table"]["reasons"])
    assert path.read_text().count("</script") == 3
    assert "<script>alert" not in path.read_text()


def test_the_table_holds_every_row(path):
    lines = content(path)["table"]["lines"]
    assert [line[0] for line in lines] == ["base", "dora", "full", "ia3", "lora lr=3e-4", "lora lr=0.3", "qlora"]
    assert {line[1] for line in lines} == {"ok", "oom", "failed", "skipped"}


@needs_browser
def test_a_header_sorts_up_and_down_by_the_number_and_unknown_comes_last(browser, path):
    place = content(path)["table"]["header"].index("Validation loss")
    header = f"document.querySelectorAll('#comparison th button')[{place}].click()"
    for sign in (1, -1):
        browser.evaluate(header)
        shown = column(browser, place)
        known = [sign * float(text.split()[0]) for text in shown if text != "-"]
        assert len(known) == 4
        assert known == sorted(known)
        assert shown[4:] == ["-"] * 3
    assert browser.evaluate("document.querySelector('#comparison th[aria-sort]').ariaSort") == "descending"


@needs_browser
def test_the_filter_keeps_what_it_names(browser):
    browser.evaluate("const box = find('filter'); box.value = 'lora'; box.dispatchEvent(new Event('input'))")
    assert sorted(column(browser, 0)) == ["lora lr=0.3", "lora lr=3e-4", "qlora"]
    browser.evaluate("find('status').value = 'ok'; find('status').dispatchEvent(new Event('change'))")
    assert column(browser, 0) == ["lora lr=3e-4"]
    assert browser.evaluate("find('count').textContent") == "1 of 7 rows"
    browser.evaluate("box.value = ''; find('status').value = ''; box.dispatchEvent(new Event('input'))")
    assert len(column(browser, 0)) == 7


@needs_browser
def test_a_point_says_its_numbers_when_the_mouse_is_over_it(browser):
    browser.evaluate("document.querySelector('#frontier').scrollIntoView({block: 'center'})")
    points = "document.querySelectorAll('#frontier .mark-symbol.role-mark path')"
    assert browser.evaluate(f"{points}.length") == 3
    where = browser.evaluate(
        f"(() => {{ const box = {points}[0].getBoundingClientRect();"
        " return [box.x + box.width / 2, box.y + box.height / 2] })()"
    )
    browser.hover(*where)
    browser.wait("document.querySelector('#vg-tooltip-element.visible')")
    told = browser.evaluate("document.querySelector('#vg-tooltip-element').innerText")
    assert re.search(r"Method\s+(dora|ia3|lora lr=3e-4)", told)
    assert re.search(r"Vertical\s+0\.\d{4} ± 0\.\d{4}", told)


def test_the_frontier_begins_with_what_was_asked_about(tree):
    groups = Comparison(load([tree], "methods")).groups
    for measure in (None, *(one.measure for one in qualities(groups))):
        [shown] = [one for one in frontier(groups, (), measure)["params"] if one["name"] == "y_axis"]
        title = dict(zip(shown["bind"]["options"], shown["bind"]["labels"], strict=True))[shown["value"]]
        wanted = next(one.title for one in qualities(groups) if measure in (None, one.measure))
        assert title == wanted


def test_figures_and_pages_begin_with_what_the_sweep_asked_about(tree, tmp_path):
    loaded = load([tree], "methods")
    asked = dataclasses.replace(loaded, sweep=dataclasses.replace(loaded.sweep, primary="test_loss"))
    page = files.write(Comparison(asked), tmp_path).read_text()
    title = next(one.title for one in qualities(Comparison(loaded).groups, ("test",)))
    assert f"![{title} against each cost]" in page
    assert "(lower is better) against what it costs" in page


def test_a_figure_is_of_any_metric_that_was_asked_about(tree, tmp_path):
    groups = Comparison(load([tree], "methods")).groups
    several = [one for one in qualities(groups) if sum(one.of(g) is not None for g in groups if g.trained) > 1]
    assert len(several) > 2
    for one in several:
        assert pareto.make(groups, tmp_path, (), one.measure).title == f"{one.title} against each cost"
    [*_, target] = (one for one in several if one.role == "target")
    assert target.title in forgetting.make(groups, tmp_path, target.measure).title
    unknown = Measure("nosuch", "acc")
    assert pareto.make(groups, tmp_path, (), unknown).title == pareto.make(groups, tmp_path).title


@needs_browser
def test_the_axes_of_the_frontier_are_chosen(browser):
    titles = browser.evaluate("[...document.querySelectorAll('#axes select[name=y_axis] option')].map((o) => o.text)")
    assert "arc_easy acc (300 items)" in titles
    loss = next(index for index, title in enumerate(titles) if "validation" in title)
    browser.evaluate(
        f"const list = document.querySelector('#axes select[name=y_axis]'); list.selectedIndex = {loss};"
        " list.dispatchEvent(new Event('change'))"
    )
    browser.wait("frontier.signal('y_axis') === list.value")
    labels = browser.evaluate(
        "[...document.querySelectorAll('#frontier .role-axis-label text')].map((t) => t.textContent)"
    )
    assert any(1.1 <= float(label) <= 1.8 for label in labels if re.fullmatch(r"\d\.\d+", label))


@needs_browser
def test_two_methods_are_held_against_each_other_item_by_item(browser, path):
    task = content(path)["tasks"][0]
    a, b = (task["groups"][name] for name in ("base", "dora"))
    browser.evaluate(
        "find('task').value = 0; chooseTask(); find('first').value = 'base'; find('second').value = 'dora'"
    )
    browser.evaluate("find('second').dispatchEvent(new Event('change'))")
    differing = sum(x != y for x, y in zip(a, b, strict=True))
    assert 0 < differing < len(a)
    assert browser.evaluate("document.querySelectorAll('#items tbody tr').length") == differing
    assert f"only B right {sum(y > x for x, y in zip(a, b, strict=True))}" in browser.evaluate(
        "find('tally').textContent"
    )


@needs_browser
def test_rows_of_others_are_crosses_apart_that_can_be_taken_away(external):
    crosses = "[...document.querySelectorAll('#frontier .mark-symbol path[stroke=\"#888888\"]')]"
    steps = "document.querySelector('#frontier .mark-line path').getAttribute('d').split('L').length"
    assert external.evaluate(f"{crosses}.length") == 2
    with_them = external.evaluate(steps)
    note = external.evaluate("document.querySelector('#frontier-section .note').textContent")
    assert "Grey crosses: Somebody's benchmark, one seed on another machine, on no frontier and never ranked." in note
    external.evaluate("document.querySelector('#frontier').scrollIntoView({block: 'center'})")
    box = f"{crosses}[0].getBoundingClientRect()"
    external.hover(*external.evaluate(f"[{box}.x + {box}.width / 2, {box}.y + {box}.height / 2]"))
    external.wait("document.querySelector('#vg-tooltip-element.visible')")
    told = external.evaluate("document.querySelector('#vg-tooltip-element').innerText")
    assert re.search(r"Method\s+lora-r32 \(Somebody's benchmark\)", told)
    assert re.search(r"Vertical\s+0\.471 \u00b1 0\.0137", told)
    external.evaluate("document.querySelector('#axes input[name=show_others]').click()")
    external.wait(f"{crosses}.length === 0")
    assert external.evaluate(steps) == with_them, "they are on no frontier"
    table = external.evaluate("document.querySelector('#comparison').innerText")
    assert "lora-r32" not in table
    external.evaluate(
        "const list = document.querySelector('#axes select[name=y_axis]'); list.selectedIndex = 0;"
        " list.dispatchEvent(new Event('change'))"
    )  # an axis on which they have nothing
    external.wait("frontier.signal('y_axis') === list.value")
    assert external.problems == []


@needs_browser
def test_light_and_dark(browser):
    paper = "getComputedStyle(document.body).backgroundColor"
    before = browser.evaluate(paper)
    browser.evaluate("find('theme').click()")
    assert browser.evaluate(paper) != before
    browser.evaluate("find('theme').click()")
    assert browser.evaluate(paper) == before


@needs_browser
def test_nothing_is_asked_of_a_network_and_nothing_complained_of(browser, path):
    assert browser.requests == [path.resolve().as_uri()]
    assert browser.problems == []
