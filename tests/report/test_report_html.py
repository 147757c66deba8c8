"""index.html: what it holds, and that it works offline in a real browser: sort, filter, open, compare, print."""

import base64
import dataclasses
import gzip
import json
import re
import subprocess
from html.parser import HTMLParser
from shutil import which

import pyarrow
import pytest
from browser import EXECUTABLE, Browser
from pyarrow import parquet

from harness.report import write
from harness.report.analysis.axes import qualities
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Measure
from harness.report.data.load import load
from harness.report.document import Missing
from harness.report.figures import scatter
from harness.report.html import items, overview
from harness.report.pages.tables import losses
from harness.report.writers import folder as files
from harness.report.writers.flat import flat
from tests.report.conftest import BASE, DORA, HOSTILE, IA3, LORA, add_evaluation, add_run, evaluation, shown

needs_browser = pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium on this machine")
ARC = evaluation("arc_easy")


@pytest.fixture(scope="module")
def folder(tree, tmp_path_factory):
    return write(tree, out=tmp_path_factory.mktemp("html") / "report").parent


@pytest.fixture(scope="module")
def path(folder):
    return folder / "index.html"


def opened_in(profile, path) -> Browser:
    browser = Browser(profile, 1400, 900)
    browser.open(path)
    browser.evaluate("window.ready")
    return browser


@pytest.fixture(scope="module")
def browser(path, tmp_path_factory):
    opened = opened_in(tmp_path_factory.mktemp("profile"), path)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Three methods with three, three and two seeds, whose items have questions, choices and answers of any length."""
    runs = tmp_path_factory.mktemp("texts") / "runs"
    for kind, seeds in ((BASE, (0,)), (LORA, (0, 1, 2)), (DORA, (0, 1))):
        for seed in seeds:
            file = add_evaluation(add_run(runs, kind, seed), kind, ARC, seed).with_suffix(".parquet")
            columns = parquet.read_table(file).to_pydict()
            right = columns["metric/acc"]
            names = range(len(right))
            columns["question"] = [f"Question {i}: {HOSTILE if i == 7 else 'why?'}" for i in names]
            columns["choices"] = [[f" yes {i}", f" no {i}", f" perhaps {i}"] for i in names]
            columns["target"] = [f" yes {i}" for i in names]
            columns["answer"] = [f" yes {i}" if value else f" no {i}" for i, value in zip(names, right, strict=True)]
            parquet.write_table(pyarrow.table(columns), file)
    return runs


@pytest.fixture(scope="module")
def item_page(texts, tmp_path_factory):
    path = write(texts, out=tmp_path_factory.mktemp("items") / "report").parent / "index.html"
    opened = opened_in(tmp_path_factory.mktemp("profile"), path)
    yield opened
    opened.close()


def content(path) -> dict:
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(found[1])


def unpacked(task: dict) -> dict:
    return json.loads(gzip.decompress(base64.b64decode(task["data"])))


def column(browser, number) -> list[str]:
    """The texts of a column of the results, from the top."""
    cells = (
        f"[...document.querySelectorAll('#comparison tbody tr:not(.settings)')].map((r) => r.cells[{number}].innerText)"
    )
    return browser.evaluate(cells)


def filtered(browser, text) -> list[str]:
    """The labels of the rows that a filter leaves."""
    browser.evaluate(f"find('filter').value = {text!r}; find('filter').dispatchEvent(new Event('input'))")
    return sorted(browser.evaluate("visible.map((row) => row.label)"))


class Links(HTMLParser):
    """Links of a page, and the places that they can lead to; figures have names of their own."""

    def __init__(self):
        super().__init__()
        self.links, self.ids, self.in_figure = [], [], False

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.in_figure = self.in_figure or tag == "svg"
        self.links += [values["href"]] if tag == "a" and "href" in values else []
        self.ids += [values["id"]] if "id" in values and not self.in_figure else []

    def handle_endtag(self, tag):
        self.in_figure = self.in_figure and tag != "svg"


def test_the_page_is_one_file_small_enough_to_send_and_the_same_twice(path, tree, tmp_path):
    assert path.stat().st_size < 1_000_000
    assert write(tree, out=tmp_path).parent.joinpath("index.html").read_bytes() == path.read_bytes()


def test_no_text_of_a_record_becomes_markup(path, texts, tmp_path):
    assert any(HOSTILE.split(" ")[0] in row["reason"] for row in content(path)["table"]["rows"])
    other = write(texts, out=tmp_path).parent / "index.html"
    assert any("<script>alert" in text for text in unpacked(content(other)["tasks"][0])["question"])
    for page in (path, other):
        assert page.read_text().count("</script") == 2
        assert "<script>alert" not in page.read_text()


def test_links_lead_to_files_that_are_there_and_anchors_to_places_of_the_page(path):
    found = Links()
    found.feed(path.read_text())
    anchors = [link[1:] for link in found.links if link.startswith("#")]
    assert {*anchors} <= {*found.ids}
    beside = {link for link in found.links if not link.startswith("#")}
    assert beside >= {
        "report.md",
        "appendix.md",
        "setup.md",
        "checklist.md",
        "records.csv",
        "records.parquet",
        "tables",
        "figures",
    }
    assert all((path.parent / link).exists() for link in beside)
    assert len(found.ids) == len({*found.ids})


def test_the_table_holds_every_row_and_begins_with_the_main_table(path, tree):
    table = content(path)["table"]
    main = Comparison(load([tree], "methods")).main_table
    in_order = [row[0].key for row in main.rows if row[0].key != "vera"]  # of which there is no record
    assert [row["label"] for row in table["rows"]] == in_order
    methods = sorted(row["label"].split()[0] for row in table["rows"])
    assert methods == ["base", "dora", "full", "ia3", "lora", "lora", "qlora"]
    assert {row["status"] for row in table["rows"]} == {"ok", "oom", "failed", "skipped"}
    keys = [one["key"] for one in table["columns"]]
    assert keys[:3] == ["method", "arc_easy/acc", "arc_easy/acc_vs_base"]
    assert keys[3 : len(main.keys) + 1] == [*main.keys[2:]]
    assert keys[-1] == "seeds"
    assert {"trainable_parameters", "peak_memory_bytes", "train_seconds"} <= {*main.keys}
    assert table["sort"] == 1
    oom = next(row for row in table["rows"] if row["status"] == "oom")
    assert oom["cells"][keys.index("peak_memory_bytes")][0] == "OOM"


@needs_browser
def test_rows_are_sorted_best_first_and_the_base_stands_apart(browser):
    scores = column(browser, 1)
    known = [float(text.split()[0]) for text in scores[:-1] if text != "\u2013"]
    assert known == sorted(known, reverse=True)
    assert len(known) == 3
    assert column(browser, 0)[-1].strip().startswith("Base")
    assert browser.evaluate("document.querySelector('#comparison th[aria-sort]').ariaSort") == "descending"


@needs_browser
def test_the_first_click_shows_the_best_first_and_the_second_turns_the_order(browser, path):
    titles = [one["key"] for one in content(path)["table"]["columns"]]
    for key, best in (("science_qa/validation/loss", 1), ("hellaswag/acc", -1), ("train_seconds", 1)):
        place = titles.index(key)
        for sign in (best, -best):
            browser.evaluate(f"document.querySelectorAll('#comparison thead button')[{place}].click()")
            shown = column(browser, place)[:-1]
            known = [sign * float(text.split()[0].replace(",", "")) for text in shown if text not in ("\u2013", "OOM")]
            assert len(known) == 3
            assert known == sorted(known)
            assert not any(text in ("\u2013", "OOM") for text in shown[:3]), "unknown comes last"
    assert browser.evaluate("document.activeElement.closest('th').ariaSort") == "descending"
    browser.evaluate("document.querySelectorAll('#comparison thead button')[1].click()")


@needs_browser
@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("lora", ["lora lr=0.3", "lora lr=3e-4", "qlora"]),
        ("lora and not qlora", ["lora lr=0.3", "lora lr=3e-4"]),
        ("method.r >= 16 and lora", ["lora lr=0.3", "lora lr=3e-4", "qlora"]),
        ("r >= 16", ["dora", "lora lr=0.3", "lora lr=3e-4", "qlora"]),
        ("method.r > 16", []),
        ("learning_rate < 1e-3", ["dora", "full", "lora lr=3e-4", "qlora"]),
        ("LEARNING_RATE>=1e-3", ["ia3", "lora lr=0.3"]),
        ("status = ok", ["base", "dora", "ia3", "lora lr=3e-4"]),
        ("status != ok and (full or qlora)", ["full", "qlora"]),
        ("oom or skipped", ["full", "qlora"]),
        ("arc_easy/acc > 0.6", ["dora", "lora lr=3e-4"]),
        ("seeds = 2", ["lora lr=3e-4"]),
        ("method = lora", ["lora lr=0.3", "lora lr=3e-4"]),
        ('label ~ "lr="', ["lora lr=0.3", "lora lr=3e-4"]),
        ("reason ~ cuda", ["qlora"]),
        ("method.target ~ linear and dora", ["dora"]),
        ('"lr=0.3"', ["lora lr=0.3"]),
        ("", ["base", "dora", "full", "ia3", "lora lr=0.3", "lora lr=3e-4", "qlora"]),
    ],
)
def test_the_filter_takes_words_and_expressions_of_any_column(browser, text, labels):
    assert filtered(browser, text) == labels
    assert browser.evaluate("find('filter-error').hidden")
    assert browser.evaluate("find('count').textContent") == f"{len(labels)} of 7 rows"
    filtered(browser, "")


@needs_browser
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nosuch > 3", 'no column is called "nosuch"'),
        ("method.rank > 3", 'no column is called "method.rank"'),
        ("loss < 3", 'called "loss": '),
        ("method.r >", 'a value is missing after ">"'),
        ("(lora", "a parenthesis is not closed"),
        ("lora and", "the filter ends where"),
        (">= 3", "stands where a word is expected"),
        ("lora)", '")" is left over'),
    ],
)
def test_a_filter_that_cannot_be_read_says_why_and_leaves_the_rows(browser, text, message):
    before = filtered(browser, "dora")
    assert filtered(browser, text) == before
    assert message in browser.evaluate("find('filter-error').textContent")
    assert browser.evaluate("find('filter').getAttribute('aria-invalid')") == "true"
    filtered(browser, "")


@needs_browser
def test_a_row_opens_its_settings_and_columns_can_be_hidden(browser):
    button = "document.querySelector('#comparison tbody th button')"
    label = browser.evaluate(f"{button}.textContent")
    browser.evaluate(f"{button}.click()")
    assert browser.evaluate(f"[{button}.ariaExpanded, document.activeElement === {button}]") == ["true", True]
    shown = browser.evaluate("document.querySelector('#comparison .settings').innerText")
    assert "Rank r" in shown, label
    assert "Learning rate" in shown
    browser.evaluate(f"{button}.click()")
    assert browser.evaluate("document.querySelector('#comparison .settings')") is None
    number = browser.evaluate("document.querySelectorAll('#comparison thead th').length")
    browser.evaluate("document.querySelector('#columns input').click()")
    assert browser.evaluate("document.querySelectorAll('#comparison thead th').length") == number - 1
    browser.evaluate("document.querySelector('#columns input').click()")


@needs_browser
def test_a_failed_row_says_why_when_it_is_opened(browser):
    filtered(browser, "failed")
    browser.evaluate("document.querySelector('#comparison tbody th button').click()")
    assert "alert('x')" in browser.evaluate("document.querySelector('#comparison .settings').innerText")
    browser.evaluate("document.querySelector('#comparison tbody th button').click()")
    filtered(browser, "")


def test_outcomes_questions_and_answers_of_every_seed_are_in_the_page(texts):
    [task] = items.tasks(Comparison(load([texts])).groups)
    data = unpacked(task)
    assert task["title"] == "ARC-Easy, accuracy (300 items)"
    assert [(one["label"], one["seeds"]) for one in data["groups"]] == [("base", 1), ("dora", 2), ("lora", 3)]
    rows = {row.method: [] for row in load([texts]).rows}
    for row in load([texts]).rows:
        rows[row.method].append(row.scored[0].items.outcomes["acc"])
    for one, picks in zip(data["groups"], data["picks"], strict=True):
        assert [int(count) for count in one["right"]] == [int(sum(v)) for v in zip(*rows[one["label"]], strict=True)]
        for seed, letters in enumerate(picks):
            for place, letter in enumerate(letters):
                answer = data["answers"][place][int(letter)]
                assert answer.startswith("yes" if rows[one["label"]][seed][place] else "no")
    assert all(len(choices) == 3 for choices in data["choices"])


def test_a_page_that_would_be_too_large_keeps_the_texts_where_methods_differ_most(texts, monkeypatch):
    groups = Comparison(load([texts])).groups
    whole = items.tasks(groups)[0]["data"]
    monkeypatch.setattr(items, "MOST_BYTES", len(whole) * 2 // 3)
    small = items.tasks(groups)[0]["data"]
    assert len(small) <= len(whole) * 2 // 3
    data = unpacked({"data": small})
    shown = [place for place, question in enumerate(data["question"]) if question]
    assert 10 < len(shown) < 300
    assert [one["right"] for one in data["groups"]] == [one["right"] for one in unpacked({"data": whole})["groups"]]

    def spread(place):
        shares = [int(one["right"][place]) / one["seeds"] for one in data["groups"]]
        return sum((share - sum(shares) / 3) ** 2 for share in shares)

    others = [place for place in range(300) if place not in shown]
    assert min(map(spread, shown)) >= max(map(spread, others)) - 1e-12


def choose(browser, a, b, kind="differ", search=""):
    browser.evaluate(
        f"find('first').value = {a!r}; find('second').value = {b!r}; find('which').value = {kind!r};"
        f" find('search').value = {search!r}; find('which').dispatchEvent(new Event('change')); showItems()"
    )


@needs_browser
def test_items_are_tallied_by_the_majority_of_the_seeds(item_page, texts):
    counts = {}
    for row in load([texts]).rows:
        values = row.scored[0].items.outcomes["acc"]
        before, seeds = counts.get(row.method, (values * 0, 0))
        counts[row.method] = (before + values, seeds + 1)
    share = {name: total / seeds for name, (total, seeds) in counts.items()}
    verdict = {
        name: ["right" if v > 0.5 else "wrong" if v < 0.5 else "split" for v in each] for name, each in share.items()
    }
    for a, b in (("base", "lora"), ("lora", "dora"), ("dora", "base")):
        pairs = list(zip(verdict[a], verdict[b], strict=True))
        split = sum("split" in pair for pair in pairs)
        expected = {
            "right": pairs.count(("right", "right")), "first": pairs.count(("right", "wrong")),
            "second": pairs.count(("wrong", "right")), "wrong": pairs.count(("wrong", "wrong")),
        }  # fmt: skip
        choose(item_page, a, b)
        text = item_page.evaluate("find('tally').textContent")
        assert (
            f"300 items, by the majority of the seeds: both right {expected['right']}, "
            f"only A right {expected['first']}, only B right {expected['second']}, both wrong {expected['wrong']}"
            + (f", seeds split {split}" if split else "")
        ) in text
        for kind, number in expected.items():
            choose(item_page, a, b, kind)
            assert f" {number} are listed" in item_page.evaluate("find('tally').textContent"), kind
        choose(item_page, a, b, "split")
        assert f" {split} are listed" in item_page.evaluate("find('tally').textContent")
        choose(item_page, a, b, "agree")  # the fixture has a single wrong answer to an item
        assert f" {expected['wrong']} are listed" in item_page.evaluate("find('tally').textContent")
        differing = int((abs(share[a] - share[b]) > 0).sum())
        choose(item_page, a, b)
        assert f" {differing} are listed" in item_page.evaluate("find('tally').textContent")


@needs_browser
def test_the_items_open_on_two_methods_that_differ(tmp_path):
    """The two best methods may give the same answers throughout, as LoRA and DoRA do after a few steps."""
    runs = tmp_path / "runs"
    for kind, items_from in ((BASE, BASE), (LORA, LORA), (DORA, LORA), (IA3, IA3)):
        add_evaluation(add_run(runs, kind), items_from, ARC)
    opened = opened_in(tmp_path / "profile", write(runs, out=tmp_path / "report").parent / "index.html")
    try:
        chosen = opened.evaluate("[find('first').value, find('second').value]")
        listed = opened.evaluate("find('tally').textContent")
    finally:
        opened.close()
    assert len({"lora", "dora"} & set(chosen)) == 1
    assert int(re.search(r" (\d+) are listed", listed)[1]) > 0


@needs_browser
def test_an_item_shows_question_choices_and_the_answers_of_its_seeds(item_page):
    choose(item_page, "base", "lora", "all", "<script>alert")
    line = "document.querySelector('#items tbody tr')"
    assert item_page.evaluate("document.querySelectorAll('#items tbody tr').length") == 1
    shown = item_page.evaluate(f"{line}.cells[1].innerText")
    assert "alert('x')" in shown
    assert item_page.evaluate("document.querySelectorAll('#items script').length") == 0
    assert [line.strip() for line in shown.splitlines()[-3:]] == ["\u2713 yes 7", "\u2007 no 7".strip(), "perhaps 7"]
    assert re.search(r"right in [0-3] of 3 seeds", item_page.evaluate(f"{line}.cells[3].innerText"))
    assert re.search(r"\b(right|wrong)\n(yes|no) 7", item_page.evaluate(f"{line}.cells[2].innerText"))


@needs_browser
def test_more_items_are_shown_on_demand_and_a_link_leads_to_one(item_page, texts, tmp_path):
    choose(item_page, "base", "lora", "all")
    assert item_page.evaluate("document.querySelectorAll('#items tbody tr').length") == 100
    item_page.evaluate("find('more').click()")
    item_page.wait("document.querySelectorAll('#items tbody tr').length === 200")
    choose(item_page, "lora", "base", "all")
    item_page.wait("!find('more').click() && document.querySelectorAll('#items tbody tr').length === 300")
    rows = "[...document.querySelectorAll('#items tbody tr')]"
    item_page.evaluate(f"{rows}.find((row) => row.innerText.includes('Question 42:')).cells[0].firstChild.click()")
    item_page.wait("find('copied').textContent")
    address = item_page.evaluate("location.href")
    assert "item=" in address
    item_page.send("Page.navigate", url="about:blank")
    item_page.send("Page.navigate", url=address)
    item_page.wait("document.readyState === 'complete' && window.ready")
    item_page.evaluate("window.ready")
    assert item_page.evaluate("[find('first').value, find('second').value]") == ["lora", "base"]
    assert "Question 42:" in item_page.evaluate("find('items').tBodies[0].innerText")
    assert item_page.evaluate("document.querySelectorAll('#items tbody tr').length") == 1
    choose(item_page, "base", "lora")


@needs_browser
def test_every_control_has_a_name_and_works_and_figures_are_reached_by_keyboard(browser):
    assert browser.evaluate(
        "[...document.querySelectorAll('button')].every((b) => b.textContent.trim() || b.ariaLabel)"
    )
    assert browser.evaluate("[...document.querySelectorAll('#items thead button, caption button')].length") == 0
    named = "(e) => e.labels?.length || e.ariaLabel"
    assert browser.evaluate(f"[...document.querySelectorAll('input, select')].every({named})")
    assert browser.evaluate("document.querySelectorAll('figure svg').length") >= 2
    assert browser.evaluate("[...document.querySelectorAll('th')].every((th) => th.scope)")
    assert browser.evaluate("[...document.querySelectorAll('.scroll')].every((e) => e.tabIndex === 0 && e.ariaLabel)")


@needs_browser
@pytest.mark.parametrize("width", [400, 1400, 3840])
def test_no_width_scrolls_the_page_sideways_and_wide_screens_are_used(browser, width):
    browser.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("find('comparison').parentElement.clientWidth") >= 0.9 * width
    pinned = "document.querySelector('#comparison tbody th')"
    browser.evaluate("find('comparison').parentElement.scrollLeft = 400")
    assert browser.evaluate(f"{pinned}.getBoundingClientRect().left") < 0.1 * width, "the method stays in sight"
    assert browser.evaluate(f"{pinned}.getBoundingClientRect().width") < 0.5 * width
    browser.send("Emulation.clearDeviceMetricsOverride")


@needs_browser
@pytest.mark.skipif(which("pdftotext") is None, reason="no pdftotext on this machine")
def test_printed_tables_have_their_heads_on_every_sheet_and_are_not_cut(browser, tmp_path):
    browser.evaluate("rows.forEach((row) => (row.open = true)); show()")
    pdf = browser.send("Page.printToPDF", preferCSSPageSize=True)
    (tmp_path / "page.pdf").write_bytes(base64.b64decode(pdf["data"]))
    text = subprocess.run(
        ["pdftotext", "-layout", str(tmp_path / "page.pdf"), "-"], capture_output=True, text=True, check=True
    ).stdout
    sheets = text.split("\f")
    heads = [sheet for sheet in sheets if "Params" in sheet and "Method" in sheet]
    assert len(heads) >= 2, "the opened rows fill more than a sheet"
    assert "Statistical comparison" in text
    assert "Every task" in text
    note = browser.evaluate("document.querySelector('.note:not(#filter-help):not(.print)').innerText")
    assert note in " ".join(text.split()), "marks in the table are explained"
    wide = "[...document.querySelectorAll('table')].filter((t) => t.offsetParent && t.scrollWidth > 1010).length"
    browser.send("Emulation.setEmulatedMedia", media="print")
    browser.send("Emulation.setDeviceMetricsOverride", width=1010, height=700, deviceScaleFactor=1, mobile=False)
    assert browser.evaluate(wide) == 0, "A4 landscape without its margins has 273 mm, 1,031 pixels"
    browser.send("Emulation.setEmulatedMedia", media="")
    browser.send("Emulation.clearDeviceMetricsOverride")
    browser.evaluate("rows.forEach((row) => (row.open = false)); show()")
    assert browser.evaluate("document.querySelectorAll('#comparison thead button').length") > 5


@needs_browser
def test_a_mark_says_its_numbers_to_the_mouse_and_to_the_keyboard(browser):
    browser.evaluate("document.querySelector('#figure-gain').scrollIntoView({block: 'center'})")
    marks = "document.querySelectorAll('#figure-gain .mark')"
    assert browser.evaluate(f"{marks}.length") == 3
    assert browser.evaluate("find('tip').hidden")
    browser.hover_until(f"{marks}[0]", "!find('tip').hidden")
    words = browser.evaluate("find('tip').innerText")
    assert re.search(r": [+-]\d+\.\d points, 95 % CI .*, \d\.\d\d GiB$", words)
    browser.evaluate(f"{marks}[1].focus()")
    assert browser.evaluate("find('tip').innerText") not in ("", words)
    assert browser.evaluate("document.activeElement.getAttribute('aria-label') === find('tip').innerText")
    browser.evaluate("document.activeElement.blur()")
    assert browser.evaluate("find('tip').hidden")


def test_a_filter_knows_every_column_of_the_csv(tree):
    comparison = Comparison(load([tree], "methods"))
    lines = flat(comparison.loaded.rows)
    used = {key for line in lines for key, value in line.items() if value is not None}
    assert {"label", "method", "reason", "recipe_id", "learning_rate", "arc_easy/acc_stderr"} <= used
    assert used <= {*overview.content(comparison)["facts"]}


def test_the_page_rounds_every_number_as_the_other_tables_of_the_report_do(tree):
    """A loss has two significant digits of its error on the page and in report.md alike."""
    comparison = Comparison(load([tree], "methods"))
    compared = 0
    for page, elsewhere in zip(
        shown(overview.table(comparison)), shown(losses(comparison.ordered)), strict=True
    ):  # in one order
        for role in ("Validation", "Test"):
            heading = next(key for key in page if key.startswith(f"{role} Loss"))
            score = elsewhere[f"{role} loss \N{DOWNWARDS ARROW}"]
            assert page[heading] == score
            compared += score != "\N{EN DASH}"
    assert compared == 8


def test_evaluations_of_a_task_that_differ_share_a_column(runs):
    zero, five = (evaluation("arc_easy", num_fewshot=count) for count in (0, 5))
    for kind, looks in ((BASE, (zero, five)), (LORA, (zero,)), (DORA, (five,))):
        folder = add_run(runs, kind)
        for look in looks:
            add_evaluation(folder, kind, look)
    comparison = Comparison(load([runs]))
    table = overview.table(comparison)
    assert len(table.keys) == len({*table.keys})
    compared = 0
    for group, cell in zip(comparison.ordered, table.cells("arc_easy/acc_vs_base"), strict=True):
        if group.trained:
            [own] = group.evaluations
            assert cell.value == group.gain(Measure(own, "acc")).value
            compared += 1
        else:
            assert isinstance(cell, Missing)
    assert compared == 2


def test_figures_and_pages_begin_with_what_the_sweep_asked_about(tree, tmp_path):
    loaded = load([tree], "methods")
    comparison = Comparison(dataclasses.replace(loaded, sweep=dataclasses.replace(loaded.sweep, primary="test_loss")))
    page = files.write(comparison, tmp_path).read_text()
    assert "![Reduction of test loss over base, by method](figures/gain.png)" in page
    assert "![Test loss against peak memory]" in page
    assert "(lower and further left is better)" in page


def test_a_figure_is_of_any_metric_that_was_asked_about(tree):
    groups = Comparison(load([tree], "methods")).groups
    several = [one for one in qualities(groups) if sum(one.of(g) is not None for g in groups if g.trained) > 1]
    assert len(several) > 2
    titles = [scatter.tradeoffs(groups, one.measure)[0].title for one in several]
    assert len({*titles}) == len(several)
    assert all(title.endswith(" against peak memory") for title in titles)
    [*_, target] = (one for one in several if one.role == "target")
    assert "ARC-Easy" in scatter.learning_and_forgetting(groups, target.measure).title
    unknown = Measure("nosuch", "acc")
    assert scatter.tradeoffs(groups, unknown)[0].title == scatter.tradeoffs(groups, None)[0].title


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
    assert {address for address in browser.requests if not address.startswith("data:")} == {path.resolve().as_uri()}
    assert browser.problems == []
