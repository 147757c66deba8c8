"""Sheets that figures are drawn on: a column and a page of a paper, and the files of both.

An SVG holds its text as text, a title, and a name on every mark, so that a page can embed it: marks answer to the
mouse, to the keyboard and to a screen reader.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

from harness.records.record import write_bytes
from harness.report.figures.style import STYLE

_METADATA: dict[str, dict[str, None]] = {  # no date and no library version: equal records give equal bytes
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
_TEXTS = ("font.size", "legend.fontsize", "axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize")
_STROKES = "stroke-linejoin: round; stroke-linecap: butt"  # matplotlib's rule for every element, of this one alone
_FONTS = f"'{STYLE['font.family']}', Verdana, sans-serif"


@dataclass(frozen=True)
class Size:
    """A width in inches and the size of all text in points; `suffix` ends the name of the file."""

    inches: float
    text: float
    suffix: str
    formats: tuple[str, ...]


PAGE = Size(7.0, 8.0, "", ("svg", "pdf", "png"))
COLUMN = Size(3.3, 7.0, "_column", ("pdf",))
SIZES = (PAGE, COLUMN)


@dataclass
class Sheet:
    """An empty matplotlib figure of a size, and the names of the marks that are drawn on it."""

    figure: Any
    size: Size
    names: list[str] = field(default_factory=list)
    before_saving: list[Callable[[], None]] = field(default_factory=list)  # labels, placed when the layout is final

    @property
    def narrow(self) -> bool:
        """Return whether this is a column."""
        return self.size is COLUMN

    def axes(self, rows: int = 1, columns: int = 1, **settings: Any) -> list[Any]:
        """Return new axes, row by row."""
        return [*self.figure.subplots(rows, columns, squeeze=False, **settings).ravel()]

    def wrapped(self, title: str, vertical: bool = False) -> str:
        """Return the title of an axis in lines that the size holds."""
        longest = (24 if vertical else 34) if self.narrow else (34 if vertical else 70)
        return "\n".join(wrap(title, longest))

    def name(self, artist: Any, text: str) -> None:
        """Give a mark the name that an SVG shows for it."""
        artist.set_gid(f"mark{len(self.names)}")
        self.names.append(text)

    def legend(self, handles: Sequence[Any], labels: Sequence[str]) -> None:
        """Draw a legend below the axes, row by row, with as many columns as the width holds."""
        for most in range(min(len(labels), 8), 0, -1):
            rows = -(-len(labels) // most)
            columns = -(-len(labels) // rows)
            order = [i for column in range(columns) for i in range(column, len(labels), columns)]
            legend = self.figure.legend([handles[i] for i in order], [labels[i] for i in order], ncols=columns,
                                        loc="outside lower center")  # fmt: skip
            if columns == 1 or legend.get_window_extent().width <= self.figure.bbox.width - 4:
                return
            legend.remove()


@dataclass(frozen=True)
class Figure:
    """A figure of a report.

    Attributes:
        stem: the name of its files, without the suffix.
        title: what it shows.
        caption: how to read it.
        draw: draws it on a sheet.
        height: inches, by the size.
        main: whether it stands in the body of a report and not in the appendix.
    """

    stem: str
    title: str
    caption: str
    draw: Callable[[Sheet], None]
    height: Callable[[Size], float]
    main: bool = False

    @property
    def files(self) -> list[str]:
        """Return the names of its files."""
        return [f"{self.stem}{size.suffix}.{suffix}" for size in SIZES for suffix in size.formats]

    @contextmanager
    def drawn(self, size: Size) -> Iterator[Sheet]:
        """Yield the sheet with the figure on it, in the style of all figures."""
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Matplotlib

        fonts = dict.fromkeys(_TEXTS, size.text)
        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE, **fonts}):
            figure = Matplotlib(figsize=(size.inches, self.height(size)), layout="constrained", dpi=200)
            FigureCanvasAgg(figure)
            sheet = Sheet(figure, size)
            self.draw(sheet)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            for place in sheet.before_saving:
                place()
            yield sheet

    def save(self, folder: Path) -> None:
        """Write the files of both widths into the folder."""
        for size in SIZES:
            with self.drawn(size) as sheet:
                for suffix in size.formats:
                    content = io.BytesIO()
                    sheet.figure.savefig(content, format=suffix, metadata=_METADATA[suffix])
                    text = content.getvalue()
                    named = self._named(text.decode(), sheet.names).encode() if suffix == "svg" else text
                    write_bytes(named, folder / f"{self.stem}{size.suffix}.{suffix}")

    def element(self, folder: Path) -> str:
        """Return the SVG element that `save` has written into the folder, to embed in a page."""
        text = (folder / f"{self.stem}.svg").read_text(encoding="utf-8")
        return text[text.index("<svg") :]

    def _named(self, text: str, names: Sequence[str]) -> str:
        """Return an SVG with a title, a name on each mark, and identifiers that no other figure of a page has."""
        for place, name in enumerate(names):
            escaped = escape(name)
            mark = f'<g class="mark" tabindex="0" role="img" aria-label="{escaped}"><title>{escaped}</title>'
            text = text.replace(f'<g id="mark{place}">', mark, 1)
        text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{self.stem}-", text)
        text = text.replace(f"'{STYLE['font.family']}'", _FONTS)
        text = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
        head = f'<svg role="figure" aria-labelledby="{self.stem}-title" style="{_STROKES}" '
        text = text.replace("<svg ", head, 1)
        end = text.index(">", text.index("<svg ")) + 1
        return f'{text[:end]}\n <title id="{self.stem}-title">{escape(self.title)}</title>{text[end:]}'
