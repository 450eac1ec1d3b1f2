"""A page being laid out: text runs, shapes and the facts that questions are asked about.

Layouts write on a `Sheet` from top to bottom. Positions are pixels of the finished page, before any scan effect;
text stands on baselines, so that faces of different families line up as they do in a browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from PIL.ImageFont import FreeTypeFont

from rave_mlx.synthetic import fonts
from rave_mlx.synthetic.values import Values

Color = tuple[int, int, int]
NO_LINE = -1
"""Line number of runs that are ornament, not text."""


@dataclass(frozen=True)
class Type:
    """A face of a family at a size in pixels."""

    family: fonts.Family
    size: float
    bold: bool = False
    italic: bool = False


@dataclass(frozen=True)
class Run:
    """Text on one baseline, starting at x. `line` numbers the lines of the page in reading order."""

    x: float
    baseline: float
    text: str
    type: Type
    color: Color
    line: int


@dataclass(frozen=True)
class Shape:
    """A filled or outlined rectangle, or a polyline through `points` when `box` is None."""

    box: tuple[float, float, float, float] | None
    fill: Color | None = None
    outline: Color | None = None
    width: int = 1
    points: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Field:
    """A labelled value; `kind` as in `values.KINDS`."""

    label: str
    value: str
    kind: str


@dataclass(frozen=True)
class Cell:
    """A table entry. `column` is the header ("" where there is none); `role` is price, quantity or ""."""

    row: str
    column: str
    value: str
    role: str = ""


@dataclass(frozen=True)
class Style:
    """Choices that hold for a whole page."""

    family: fonts.Family
    heading: fonts.Family
    size: float
    leading: float
    ink: Color
    muted: Color
    accent: Color
    paper: Color
    band: Color
    bold_labels: bool
    bold_values: bool


def _grey(rng: Random, low: int, high: int) -> Color:
    """A random grey between two levels."""
    v = rng.randint(low, high)
    return v, v, v


def make_style(rng: Random, families: Sequence[fonts.Family], sizes: tuple[float, float]) -> Style:
    """Draw what holds for a whole page: fonts, sizes and colours.

    Args:
        rng: the generator to draw from.
        families: fonts to choose from.
        sizes: least and largest body size in pixels; small ones are drawn more often.
    """
    family = rng.choice(families)
    size = rng.triangular(sizes[0], sizes[1], sizes[0] + 0.3 * (sizes[1] - sizes[0]))
    size = round(size) if rng.random() < 0.6 else round(size * 3) / 3
    paper = (255, 255, 255) if rng.random() < 0.55 else _grey(rng, 225, 255)
    if rng.random() < 0.15:
        paper = (rng.randint(235, 255), rng.randint(235, 255), rng.randint(210, 250))
    dark = rng.randint(0, 110)
    return Style(
        family=family,
        heading=rng.choice(families) if rng.random() < 0.4 else family,
        size=size,
        leading=rng.uniform(1.12, 1.75),
        ink=_grey(rng, 0, 60) if rng.random() < 0.7 else (rng.randint(0, 90), rng.randint(0, 70), rng.randint(0, 130)),
        muted=_grey(rng, 40, 130),
        accent=(rng.randint(0, 160), dark, rng.randint(0, 190)),
        paper=paper,
        band=tuple(max(0, c - rng.randint(8, 34)) for c in paper),  # type: ignore[arg-type]
        bold_labels=rng.random() < 0.25,
        bold_values=rng.random() < 0.12,
    )


class Sheet:
    """A page being written: cursor, margins and everything put on it so far.

    Attributes:
        x0, x1: left and right margin in pixels.
        y: the cursor: where the next line begins, in pixels from the top.
        bottom: the lowest place to write.
        runs, shapes: what is drawn.
        fields, cells, title: what questions are asked about.
        items: how many things the page lists.
        used: labels that are taken, so that no two fields have the same.

    Args:
        rng: the page's generator; layouts draw from it.
        values: draws values of the page's split.
        style: fonts and colours.
        width: in pixels.
        height: in pixels.
        scale: the page is drawn at this many times its size, and reduced.
    """

    def __init__(self, rng: Random, values: Values, style: Style, width: int, height: int, scale: int) -> None:
        self.rng, self.values, self.style = rng, values, style
        self.width, self.height, self.scale = width, height, scale
        self.x0 = float(rng.randint(3, max(4, min(28, width // 14))))
        self.x1 = width - float(rng.randint(3, max(4, min(28, width // 14))))
        self.y = float(rng.randint(2, max(3, min(24, height // 8))))
        self.bottom = height - 3.0
        self.runs: list[Run] = []
        self.shapes: list[Shape] = []
        self.fields: list[Field] = []
        self.cells: list[Cell] = []
        self.title: str | None = None
        self.items = 0
        self.chart = False
        self._line = NO_LINE
        self.used: set[str] = set()

    # -- faces and measures -------------------------------------------------------------------------------------

    def type(self, scale: float = 1.0, bold: bool = False, italic: bool = False, heading: bool = False) -> Type:
        """A face of this page, `scale` times the body size.

        Args:
            scale: of the body size; no face is smaller than 9 pixels.
            bold: the bold face.
            italic: the italic face.
            heading: of the headings' family.
        """
        family = self.style.heading if heading else self.style.family
        return Type(family, max(9.0, round(self.style.size * scale * 2) / 2), bold, italic)

    @property
    def body(self) -> Type:
        """The face of running text."""
        return self.type()

    def measure(self, text: str, kind: Type) -> float:
        """Width of the text in page pixels, as it will be drawn."""
        return length(text, kind, self.scale)

    def pitch(self, kind: Type | None = None) -> float:
        """Distance of baselines for lines in a face."""
        return round((kind or self.body).size * self.style.leading)

    def room(self, height: float) -> bool:
        """Whether `height` pixels are left below the cursor."""
        return self.y + height <= self.bottom

    def chance(self, p: float) -> bool:
        """True with probability `p`; draws from the page's generator."""
        return self.rng.random() < p

    # -- writing ------------------------------------------------------------------------------------------------

    def next_line(self) -> int:
        """Begin a line of the reading order; its number."""
        self._line += 1
        return self._line

    def write(self, x: float, text: str, kind: Type, line: int, baseline: float, color: Color | None = None) -> float:
        """Put a run on the page and return its right end.

        Args:
            x: left end in pixels.
            text: one line; nothing is put on the page where it is empty.
            kind: its face.
            line: number in the reading order, or `NO_LINE`.
            baseline: in pixels from the top.
            color: None for the page's ink.
        """
        if text:
            self.runs.append(Run(x, baseline, text, kind, color or self.style.ink, line))
        return x + self.measure(text, kind)

    def line(
        self, parts: Sequence[tuple[float, str, Type] | tuple[float, str, Type, Color]], pitch: float = 0
    ) -> float:
        """Write one line of runs at the cursor, advance the cursor, return the baseline.

        Args:
            parts: runs as (x, text, face) or (x, text, face, color), x in pixels.
            pitch: height of the line in pixels; 0 for that of its largest face.
        """
        largest = max(p[2].size for p in parts)
        pitch = pitch or self.pitch(max((p[2] for p in parts), key=lambda t: t.size))
        # The middle of the line, for a face that stands 0.82 of its size above the baseline.
        baseline = round(self.y + (pitch - largest) / 2 + largest * 0.82)
        number = self.next_line()
        for part in parts:
            self.write(part[0], part[1], part[2], number, baseline, part[3] if len(part) > 3 else None)
        self.y += pitch
        return baseline

    def leader(self, x0: float, x1: float, mark: str, kind: Type, baseline: float) -> None:
        """Dots or dashes between x0 and x1: drawn, but no text of the page, since nobody wants them read out.

        Args:
            x0: end of the text at the left, in pixels.
            x1: start of the text at the right.
            mark: the character to repeat; nothing is drawn where it is empty.
            kind: its face.
            baseline: in pixels from the top.
        """
        start = x0 + self.rng.uniform(2, 5)
        count = int((x1 - start - 3) / self.measure(mark, kind)) if mark else 0
        if count > 1:
            self.write(start, mark * count, kind, NO_LINE, baseline)

    def rule(self, y: float | None = None, x0: float | None = None, x1: float | None = None) -> None:
        """A horizontal rule at y (default: the cursor).

        Args:
            y: in pixels from the top; None for the cursor.
            x0: left end; None for the margin.
            x1: right end; None for the margin.
        """
        y = self.y if y is None else y
        left, right = self.x0 if x0 is None else x0, self.x1 if x1 is None else x1
        self.shapes.append(Shape(None, outline=self.style.muted, points=((left, y), (right, y))))

    def vertical(self, x: float, y0: float, y1: float) -> None:
        """A vertical rule.

        Args:
            x: in pixels from the left.
            y0: upper end in pixels from the top.
            y1: lower end.
        """
        self.shapes.append(Shape(None, outline=self.style.muted, points=((x, y0), (x, y1))))

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Color | None = None, width: int = 1) -> None:
        """A rectangle: filled without outline, or outlined.

        Args:
            x0: left side in pixels.
            y0: upper side.
            x1: right side.
            y1: lower side.
            fill: its colour; None for an outline.
            width: of the outline in pixels.
        """
        self.shapes.append(Shape((x0, y0, x1, y1), fill, None if fill else self.style.muted, width))

    def fit(self, text: str, kind: Type, width: float) -> bool:
        """Whether a text takes no more than a width.

        Args:
            text: one line.
            kind: its face.
            width: in pixels.
        """
        return self.measure(text, kind) <= width

    def claim(self, label: str) -> bool:
        """Reserve a label: False when the page has it already."""
        key = label.lower().rstrip(" :.")
        if key in self.used:
            return False
        self.used.add(key)
        return True


def length(text: str, kind: Type, scale: int) -> float:
    """Width of a text in page pixels when drawn at `scale` times the size.

    Args:
        text: one line.
        kind: its face.
        scale: the page is drawn at this many times its size, and reduced.
    """
    return resolve(kind, scale).getlength(text) / scale if text else 0.0


def resolve(kind: Type, scale: int) -> FreeTypeFont:
    """The font behind a `Type` at `scale` times its size."""
    return fonts.face(kind.family, kind.size * scale, kind.bold, kind.italic)
