"""Figures at real sizes and both widths: no label covers a mark, numbers are those of the tests, files fit a paper."""

import dataclasses
import itertools
import math
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
import sized_tree
from matplotlib.text import Annotation, Text

from harness.config.experiment import digest
from harness.report import figures
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.series import rate_series, swept
from harness.report.data.groups import Measure
from harness.report.data.load import load
from harness.report.figures import bars, lines, scatter, style
from harness.report.figures.canvas import COLUMN, PAGE, SIZES
from harness.stats import average_ranks
from tests.report.conftest import BASE, HOSTILE, IA3, LORA, Kind, add_evaluation, add_run, evaluation, recipe_of

COUNTS = (3, 8, 24)
FEWEST_FIGURES = {3: 9, 8: 9, 24: 9, "rank": 10}


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory):
    """Comparisons of 3, 8 and 24 methods, and of a sweep over the rank."""
    made = {count: sized_tree.kinds(count) for count in COUNTS} | {"rank": sized_tree.rank_kinds()}
    folders = {name: tmp_path_factory.mktemp(f"sized{name}") / "runs" for name in made}
    trees = {name: sized_tree.build(folders[name], kinds) for name, kinds in made.items()}
    return {name: Comparison(load([tree], "sized")) for name, tree in trees.items()}


@pytest.fixture(scope="module")
def drawn(comparisons):
    return {name: {figure.stem: figure for figure in figures.of(one)} for name, one in comparisons.items()}


def texts(figure):
    """The texts that matplotlib draws, with their boxes in pixels: left, bottom, right, top."""
    shown = []
    draw = Text.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", lambda text, renderer: (shown.append(text), draw(text, renderer))[1])
        figure.canvas.draw()
    boxes = [(text, text.get_window_extent()) for text in dict.fromkeys(shown) if text.get_visible()]
    return [(text, (box.x0, box.y0, box.x1, box.y1)) for text, box in boxes if text.get_text().strip()]


def overlap(a, b) -> bool:
    return min(a[2], b[2]) - max(a[0], b[0]) > 0.5 and min(a[3], b[3]) - max(a[1], b[1]) > 0.5


EVERY = [(count, size) for count in (*COUNTS, "rank") for size in SIZES]


@pytest.mark.parametrize(("count", "size"), EVERY, ids=lambda one: getattr(one, "suffix", one) or "page")
def test_no_text_covers_another_or_leaves_the_sheet(drawn, count, size):
    assert len(drawn[count]) >= FEWEST_FIGURES[count]
    for stem, figure in drawn[count].items():
        with figure.drawn(size) as sheet:
            sheet.figure.canvas.draw()
            boxes = texts(sheet.figure)
            assert len(boxes) > 3
            for (a, one), (b, other) in itertools.combinations(boxes, 2):
                assert not overlap(one, other), (stem, a.get_text(), b.get_text())
            edges = sheet.figure.bbox
            for text, box in boxes:
                assert box[0] >= -1 and box[1] >= -1 and box[2] <= edges.x1 + 1 and box[3] <= edges.y1 + 1, (
                    stem, text.get_text(), box)  # fmt: skip


@pytest.mark.parametrize(("count", "size"), EVERY, ids=lambda one: getattr(one, "suffix", one) or "page")
def test_no_label_covers_a_mark(drawn, count, size):
    """Measured in pixels: where a label stands, the figure without texts and grid is empty (or the shade of a tie)."""
    checked = 0
    for stem, figure in drawn[count].items():
        if stem == "tasks":  # its numbers stand in the cells
            continue
        with figure.drawn(size) as sheet:
            canvas = sheet.figure.canvas
            canvas.draw()
            boxes = [(text, box) for text, box in texts(sheet.figure) if isinstance(text, Annotation) or text.axes]
            for text, _ in boxes:
                text.set_visible(False)
            for axes in sheet.figure.axes:
                axes.grid(visible=False)
                axes.tick_params(length=0, which="both")
            canvas.draw()
            pixels = np.asarray(canvas.buffer_rgba())[:, :, :3].astype(int)
            shade = np.array([int(style.FILL[i : i + 2], 16) for i in (1, 3, 5)])
            for text, (left, low, right, high) in boxes:
                top, height = math.ceil(pixels.shape[0] - high) + 1, pixels.shape[0]
                part = pixels[
                    max(top, 0) : math.floor(height - low) - 1, max(math.ceil(left) + 1, 0) : math.floor(right) - 1
                ]
                empty = (part == 255).all(axis=-1) | (abs(part - shade) <= 2).all(axis=-1)
                checked += 1
                assert empty.all(), (stem, text.get_text())
    assert checked > 30


@pytest.mark.parametrize("count", COUNTS)
def test_every_method_that_a_figure_promises_to_name_is_named(drawn, comparisons, count):
    names = {style.name_of(group, 20) for group in comparisons[count].groups if group.trained}
    for stem, figure in drawn[count].items():
        for size in SIZES:
            with figure.drawn(size) as sheet:
                shown = {text.get_text().split(" (")[0] for text, _ in texts(sheet.figure)}
                if stem in ("gain", "critical_difference", "tasks", "memory") or count <= 8:
                    assert names <= shown, (stem, size.suffix, names - shown)
                else:
                    assert names & shown, (stem, size.suffix)


@pytest.mark.parametrize("size", SIZES, ids=["page", "column"])
def test_texts_are_of_seven_or_eight_points(drawn, size):
    for figure in drawn[24].values():
        with figure.drawn(size) as sheet:
            assert {text.get_fontsize() for text, _ in texts(sheet.figure)} == {size.text}
            assert sheet.figure.get_size_inches()[0] == size.inches
    assert (COLUMN.inches, COLUMN.text, PAGE.inches, PAGE.text) == (3.3, 7, 7, 8)


def fonts_of(pdf: bytes) -> set[bytes]:
    return {*re.findall(rb"/Subtype /(Type[013]|TrueType|CIDFontType2)\b", pdf)}


def test_files_have_truetype_fonts_the_width_of_a_column_and_the_same_bytes_twice(drawn, tmp_path):
    import matplotlib

    for figure in drawn[8].values():
        for folder in ("a", "b"):
            figure.save(tmp_path / folder)
        assert len(figure.files) == 4
        for name in figure.files:
            content = (tmp_path / "a" / name).read_bytes()
            assert content == (tmp_path / "b" / name).read_bytes(), name
            if name.endswith(".pdf"):
                assert fonts_of(content) == {b"Type0", b"CIDFontType2"}, name
                [width] = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+)", content)
                assert float(width) == pytest.approx(72 * (3.3 if "_column" in name else 7), abs=0.1)
    figure = matplotlib.figure.Figure()
    figure.text(0, 0, "x")
    with matplotlib.rc_context({"pdf.fonttype": 3}):
        figure.savefig(tmp_path / "type3.pdf")
    assert b"Type3" in fonts_of((tmp_path / "type3.pdf").read_bytes()), "the check sees a Type 3 font"


def test_a_folder_loses_the_figures_that_are_no_longer_drawn(drawn, tmp_path):
    own = tmp_path / "mine.svg"
    own.write_text("mine")
    for name in ("overview.png", "pareto.pdf", "by_dropout_column.pdf", "update.svg"):
        (tmp_path / name).write_text("old")
    several = [drawn[3]["gain"], drawn[3]["memory"]]
    figures.write(several, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.svg", *(name for one in several for name in one.files)}


def test_the_svg_names_every_mark_for_the_mouse_the_keyboard_and_a_screen_reader(drawn, tmp_path):
    figure = drawn[8]["gain"]
    figure.save(tmp_path)
    root = ElementTree.fromstring(figure.element(tmp_path))
    space = "{http://www.w3.org/2000/svg}"
    title = root.find(f"{space}title")
    assert title.text == figure.title
    assert root.get("aria-labelledby") == title.get("id")
    marks = [one for one in root.iter(f"{space}g") if one.get("class") == "mark"]
    assert len(marks) == 8
    for mark in marks:
        assert mark.get("tabindex") == "0"
        assert mark.find(f"{space}title").text == mark.get("aria-label")
        assert re.search(
            r"^\S.*: [+-]\d+\.\d points, 95 % CI [+-]\d+\.\d to [+-]\d+\.\d, \d\.\d\d GiB$", mark.get("aria-label")
        )
    ids = [one.get("id") for one in root.iter() if one.get("id")]
    assert len(ids) == len({*ids})
    assert all(one.startswith("gain-") for one in ids)
    assert "*{" not in figure.element(tmp_path), "no rule for other elements of a page"


def test_foreign_text_in_a_figure_stays_text(tmp_path):
    kinds = [Kind(name=HOSTILE[:60], skill=0.4), LORA, Kind(name="\N{CJK UNIFIED IDEOGRAPH-4E00}" * 3, skill=0.2)]
    runs = sized_tree.build(tmp_path / "runs", kinds)
    for figure in figures.of(Comparison(load([runs], "sized"))):
        figure.save(tmp_path)
        text = figure.element(tmp_path)
        ElementTree.fromstring(text)
        assert "<script" not in text
        assert "???" in text or "4E00" in text or figure.stem not in ("gain", "memory")


def test_a_bar_is_the_interval_of_its_verdict_and_the_shade_is_the_group_of_the_best(comparisons):
    claims = comparisons[8].claims[0]
    pairs = {pair.a.label: pair for pair in claims.against_base}
    drawn = bars.bars_of(claims, bars.scale_of(claims.contest))
    assert len(drawn) == len(pairs) == 8
    for bar in drawn:
        test = pairs[bar.group.label].result
        assert bar.gain == pytest.approx(100 * test.difference)
        assert bar.interval == pytest.approx([100 * end for end in test.adjusted_interval])
        assert (bar.interval[0] > 0) == (test.verdict == "better")
    assert [bar.gain for bar in drawn] == sorted((bar.gain for bar in drawn), reverse=True)
    worse = {pair.a.label for pair in claims.against_best if pair.significant}
    assert {bar.group.label for bar in drawn if not bar.tied} == worse
    assert worse and len(worse) < 7


def test_a_method_without_a_verdict_is_hollow_and_in_no_shade(tmp_path):
    runs = sized_tree.build(tmp_path, sized_tree.kinds(2))
    for folder in runs.glob("*/seed-1"):
        folder.rename(tmp_path / f"{folder.parent.name}-unused")
    comparison = Comparison(load([runs]))
    claims = comparison.claims[0]
    assert {pair.result.verdict for pair in claims.against_base} == {"no verdict"}
    figure = bars.gain_figure(claims)
    assert "Hollow: too few seeds for a verdict about the method;" in figure.caption
    assert "Shaded" not in figure.caption
    with figure.drawn(PAGE) as sheet:
        assert not sheet.figure.axes[0].patches, "the best alone is no group"
        marks = [line for line in sheet.figure.axes[0].lines if line.get_marker() in style.MARKERS]
        assert [line.get_markerfacecolor() for line in marks] == ["white"] * 2


@pytest.mark.parametrize("size", SIZES, ids=["page", "column"])
def test_methods_without_a_verdict_are_hollow_and_coinciding_ones_are_all_seen_in_every_scatter_figure(tmp_path, size):
    """Three methods, of which two answer alike: in the figures the lower one is larger, and each has its name."""
    for kind in (BASE, LORA, dataclasses.replace(LORA, name="dora"), IA3):
        folder = add_run(tmp_path, kind)
        for look in (evaluation("arc_easy"), evaluation("hellaswag")):
            add_evaluation(folder, LORA if kind.name == "dora" else kind, look)
    comparison = Comparison(load([tmp_path]))
    shown = [figure for figure in figures.of(comparison) if figure.stem.startswith(("forgetting", "tradeoff_"))]
    assert {"forgetting", "tradeoff_peak_memory_bytes"} <= {figure.stem for figure in shown}
    for figure in shown:
        assert "Hollow: too few seeds for a verdict about the method." in figure.caption
        assert "A larger mark lies below another one at the same place." in figure.caption
        with figure.drawn(size) as sheet:
            marks = [line for line in sheet.figure.axes[0].lines if line.get_marker() in style.MARKERS]
            assert [line.get_markerfacecolor() for line in marks] == ["white"] * 3
            assert [line.get_markersize() for line in marks[:2]] == [10.0, 5.5]
            assert marks[0].get_marker() != marks[1].get_marker()
            named = {text.get_text() for text, _ in texts(sheet.figure)}
            assert {"LoRA", "DoRA"} <= named


def test_marks_coincide_on_the_axis_that_is_drawn():
    near, far = [scatter.Mark(None, x, 1.0) for x in (1.0, 1.001)], scatter.Mark(None, 1000.0, 2.0)
    spots = scatter._spots([*near, far])
    assert scatter._sizes(spots, [False] * 3) == [10.0, 5.5, 5.5]
    assert scatter._sizes(spots, [False, True, True]) == [5.5, 10.0, 4.0], "gray marks lie below colored ones"
    apart = [scatter.Mark(None, x, 1.0) for x in (1.0, 5.0)]
    assert scatter._coincident(scatter._spots([*apart, far]), 0) == [1]
    assert scatter._coincident(scatter._spots([*apart, far], log=True), 0) == []


def test_a_method_has_one_color_and_one_marker_that_no_other_common_method_has(comparisons):
    looks = [style.look_of(name) for name in style.KNOWN]
    assert len({*looks}) == len(looks) == 27
    assert len({color for color, _ in looks[:8]}) == len({marker for _, marker in looks[:8]}) == 8
    assert style.look_of("lora") == ("#0072B2", "o")
    for name in ("rocket", "loftq2", "my_method"):
        assert style.look_of(name) not in looks, "a pair that no known method has"
    groups = comparisons["rank"].groups
    assert {style.look_of(style.method_of(group)) for group in groups if group.first.method == "lora"} == {looks[0]}


def test_a_variant_of_lora_has_a_look_of_its_own_at_every_rank_and_the_plain_method_keeps_its():
    plain = {"init_lora_weights": "default", "use_rslora": False}
    named = {
        "lora": ("lora", plain), "pissa": ("lora", {**plain, "init_lora_weights": "pissa"}),
        "rslora": ("lora", {**plain, "use_rslora": True}), "olora": ("lora", {**plain, "init_lora_weights": "olora"}),
        "dora": ("dora", plain), "lora_plus": ("lora_plus", plain),
        "qlora loftq": ("qlora", {**plain, "init_lora_weights": "loftq"}),
        "pissa rslora": ("lora", {**plain, "init_lora_weights": "pissa", "use_rslora": True}),
    }  # fmt: skip
    for rank in (8, 64):
        kinds = {name: style.kind_of(method, {"r": rank, **settings}) for name, (method, settings) in named.items()}
        assert kinds == {name: name for name in named}
    looks = {name: style.look_of(name) for name in named}
    six = [looks[name] for name in ("lora", "pissa", "rslora", "olora", "dora", "lora_plus")]
    assert len({color for color, _ in six}) == len({marker for _, marker in six}) == 6
    assert len({*looks.values()}) == len(looks)


def test_colors_differ_for_color_blind_readers_and_in_gray():
    """Distances in CIELAB after Machado et al. (2009), severity 1; what is close in gray has another marker."""
    blind = {
        "normal": np.eye(3),
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    }  # fmt: skip
    for seen in blind.values():
        labs = [_lab(np.clip(np.array(seen) @ _linear(color), 0, 1)) for color in style.COLORS]
        distances = [float(np.linalg.norm(a - b)) for a, b in itertools.combinations(labs, 2)]
        assert min(distances) > 9
    for (a, one), (b, other) in itertools.combinations([style.look_of(name) for name in style.KNOWN], 2):
        grays = [_lab(_linear(color))[0] for color in (a, b)]
        assert one != other or abs(grays[0] - grays[1]) > 4 or a != b


def _linear(color: str):
    values = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _lab(rgb):
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = (matrix @ rgb) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_a_swept_rank_has_a_line_for_each_method_and_way_to_scale(comparisons, drawn):
    [setting] = swept(comparisons["rank"].groups, tuned=False)
    assert setting.key == "method.r"
    assert {one.name: [x for x, _ in one.points] for one in setting.series} == {
        "LoRA (alpha=16)": [*sized_tree.RANKS], "LoRA (alpha/r=2)": [*sized_tree.RANKS], "DoRA": [*sized_tree.RANKS],
    }  # fmt: skip
    with drawn["rank"]["by_r"].drawn(COLUMN) as sheet:
        [axes] = sheet.figure.axes
        assert axes.get_xscale() == "log"
        assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "4", "8", "16", "32", "64"]
        assert axes.get_xlabel() == "Rank r"
        assert axes.get_ylabel() == "ARC-Easy accuracy (%)"
        [legend] = sheet.figure.legends
        assert len(legend.get_texts()) == 4
        styles = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in legend.get_lines()}
        assert len(styles) == 4, "lines of one color differ in their dashes"


@pytest.mark.parametrize("size", SIZES, ids=["page", "column"])
def test_rows_of_one_method_are_told_apart_by_name_and_by_line(comparisons, drawn, size):
    """Seventeen recipes of two methods: no two names are cut to the same text, no two lines look alike."""
    rows = [group for group in comparisons["rank"].groups if group.trained]
    assert len(rows) == 17
    for stem in ("gain", "memory", "tasks"):
        with drawn["rank"][stem].drawn(size) as sheet:
            named = [text.get_text() for text in sheet.figure.axes[0].get_yticklabels()]
            assert len({*named}) == len(named) == len(rows), (stem, named)
    with drawn["rank"]["learning_curves"].drawn(size) as sheet:
        [legend] = sheet.figure.legends
        lines = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in legend.get_lines()}
        assert len(lines) == len(legend.get_texts()) == 7, "six rows and the base"


@pytest.mark.parametrize(
    ("key", "values", "log"),
    [("num_virtual_tokens", (5, 10, 20, 50, 100), True), ("lora_dropout", (0.0, 0.05, 0.1), False)],
)
def test_any_numeric_setting_of_three_values_is_an_axis(tmp_path, key, values, log):
    kinds = [Kind(name="prefix", settings={key: value}, skill=0.2 + 0.01 * place) for place, value in enumerate(values)]
    comparison = Comparison(load([sized_tree.build(tmp_path, kinds)], "sized"))
    [setting] = swept(comparison.groups, tuned=False)
    assert (setting.key, [x for x, _ in setting.series[0].points]) == (f"method.{key}", [*map(float, values)])
    with lines.over_setting(setting, comparison.claims[0]).drawn(PAGE) as sheet:
        assert (sheet.figure.axes[0].get_xscale() == "log") == log
    few = Comparison(load([sized_tree.build(tmp_path / "few", kinds[:2])], "sized"))
    assert swept(few.groups, tuned=False) == [], "two values are no curve"


def test_methods_that_differ_in_more_than_one_setting_are_no_series(comparisons):
    assert swept(comparisons[24].groups, tuned=False) == []
    assert len(rate_series(comparisons[24].groups)) == 24
    assert len(rate_series(comparisons["rank"].groups)) == 17, "an alpha of its own is a recipe of its own"


def test_the_front_is_colored_and_everything_else_gray(comparisons, drawn):
    groups = [group for group in comparisons[24].groups if group.trained]
    measure = comparisons[24].primary
    points = [(group.rows[0].current.peak_memory_bytes, group.score(Measure(measure.eval_id, "acc")).value)
              for group in groups]  # fmt: skip
    front = {
        style.look_of(style.method_of(group))[0]
        for group, (cost, score) in zip(groups, points, strict=True)
        if not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)
    }
    with drawn[24]["tradeoff_peak_memory_bytes"].drawn(PAGE) as sheet:
        marks = [line for line in sheet.figure.axes[0].lines if line.get_marker() not in ("None", None, "")]
        colors = [line.get_color() for line in marks]
    assert len(marks) == 24
    assert {*colors} - {style.PALE} == front
    assert 0 < colors.count(style.PALE) < 24


# Demsar (2006), table 5a: the critical values of the two-tailed Nemenyi test at 0.05, for 2 to 10 classifiers.
NEMENYI = {3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}


@pytest.mark.parametrize(("methods", "quantile"), NEMENYI.items())
def test_the_critical_difference_is_that_of_the_published_table(methods, quantile):
    scores = np.random.default_rng(0).normal(size=(methods, 14))
    ranks = average_ranks(scores)
    assert ranks.critical_difference == pytest.approx(
        quantile * math.sqrt(methods * (methods + 1) / (6 * 14)), abs=2e-3
    )
    order = (-scores).argsort(axis=0).argsort(axis=0) + 1
    assert ranks.average == pytest.approx(order.mean(axis=1))
    square = 12 * 14 / (methods * (methods + 1)) * ((order.mean(axis=1) ** 2).sum() - methods * (methods + 1) ** 2 / 4)
    from scipy.stats import chi2

    assert ranks.friedman_p == pytest.approx(chi2.sf(square, methods - 1))


def test_ranks_need_methods_and_tasks_and_equal_scores_are_alike():
    with pytest.raises(ValueError, match=r"shape \(2, 5\).*three methods and two tasks"):
        average_ranks(np.zeros((2, 5)))
    equal = average_ranks(np.zeros((4, 5)))
    assert equal.friedman_p == 1
    assert [*equal.average] == [2.5] * 4


def test_bars_of_the_diagram_join_what_does_not_differ_and_nothing_else(drawn):
    from harness.report.figures.tasks import _cliques
    from harness.stats import Ranks

    ranks = Ranks(np.array([1.0, 1.4, 3.0, 3.9, 6.0]), 0.001, 1.65)
    assert _cliques(ranks) == [(1.0, 1.4), (1.4, 3.0), (3.0, 3.9)]
    assert _cliques(ranks._replace(friedman_p=0.3)) == [(1.0, 6.0)]
    assert "critical_difference" in drawn[3]


@pytest.mark.parametrize(
    ("p", "difference", "shown", "words"),
    [(0.001, 1.65, True, "p = 0.001)"), (1e-9, 1.65, True, "p < 0.001)"), (0.3, 1.65, False, "p = 0.3)"),
     (0.01, 9.0, False, "p = 0.01)")],
)  # fmt: skip
def test_the_caption_names_the_critical_difference_only_where_it_is_drawn(
    comparisons, monkeypatch, p, difference, shown, words
):
    from harness import stats
    from harness.report.figures import tasks

    ranks = stats.Ranks(np.array([1.0, 2.0, 3.0]), p, difference)
    monkeypatch.setattr(stats, "average_ranks", lambda scores: ranks)
    figure = tasks.diagram(comparisons[3].targets)
    assert ("CD: the smallest significant difference." in figure.caption) == shown
    assert words in figure.caption
    with figure.drawn(PAGE) as sheet:
        assert any(text.get_text().startswith("CD = ") for text in sheet.figure.axes[0].texts) == shown


def test_the_map_of_tasks_shows_gains_everywhere_or_scores_everywhere(tmp_path):
    """The base model was not asked the retention task: no column may show a gain under the title of scores."""
    from harness.report.analysis.claims import contests
    from harness.report.figures import tasks

    runs = sized_tree.build(tmp_path, sized_tree.kinds(3))
    for whole in (True, False):
        if not whole:
            base = runs / digest(recipe_of(BASE)) / "seed-0"
            [asked] = [path for path in base.glob("evaluations/*.json") if '"hellaswag"' in path.read_text()]
            asked.unlink()
        comparison = Comparison(load([runs], "sized"))
        retention = contests(comparison.groups, "retention")
        figure = tasks.heat_map(comparison.targets, retention)
        with figure.drawn(PAGE) as sheet:
            numbers = [
                text.get_text() for text in sheet.figure.axes[0].texts if re.fullmatch(r"\S\d+\.\d", text.get_text())
            ]
        signed = [number[0] in "+\N{MINUS SIGN}" for number in numbers]
        assert len(numbers) == 3 * 5
        assert all(signed) if whole else not any(signed)
        assert figure.title.startswith("Gain over base" if whole else "Score and rank")


def test_without_a_base_the_bars_are_intervals_of_the_scores(tmp_path):
    kinds = [Kind(name="lora", settings={"r": r}, skill=0.2 + 0.01 * r) for r in (2, 4, 8)]
    runs = sized_tree.build(tmp_path, kinds)
    shutil.rmtree(runs / digest(recipe_of(BASE)))
    for with_items, kept in ((True, "*.parquet"), (False, "*.none")):
        for file in set(runs.rglob("*.parquet")) - set(runs.rglob(kept)):
            file.unlink()
        comparison = Comparison(load([runs], "sized"))
        [setting] = swept(comparison.groups, tuned=False)
        figure = lines.over_setting(setting, comparison.claims[0])
        assert ("Bars: 95 % confidence intervals." in figure.caption) == with_items
        with figure.drawn(PAGE) as sheet:
            upright = [line for line in sheet.figure.axes[0].lines if len({*line.get_xdata()}) < len(line.get_xdata())]
            assert len(upright) == 3 * with_items
