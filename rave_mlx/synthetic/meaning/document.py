"""A page with what it means: laid out, cut to a size, printed, and asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from PIL import Image

from rave_mlx.synthetic import fonts, render
from rave_mlx.synthetic.meaning import ask, faces, printing
from rave_mlx.synthetic.meaning.facts import Pieces, Stretch, stretches, text_of
from rave_mlx.synthetic.meaning.layouts.register import LAYOUTS, Layout
from rave_mlx.synthetic.meaning.paper import Paper
from rave_mlx.synthetic.meaning.places import Box, Places
from rave_mlx.synthetic.meaning.sight import Candidate, Seen, in_sight
from rave_mlx.synthetic.questions import Question
from rave_mlx.synthetic.render import Glyph
from rave_mlx.synthetic.sheet import NO_LINE, Sheet, make_style
from rave_mlx.synthetic.values import Values

QUOTE_MARK = " -> "
"""Between the line that an answer is quoted from and the value."""
_WIDEST = 848
_ADVANCE = 0.52
"""Width of a letter, of the size of its face, about."""


@dataclass(frozen=True)
class MeaningConfig:
    """What to draw.

    Attributes:
        width, height: of the page in pixels; None for a random width, and the height that its text takes.
        heights: heights that a page may get where `height` is None, ascending; what does not fit is cut off.
        layout: one of `LAYOUTS`; None for any of its side of the split that fits the width.
        held_layouts, held_roles, held_phrasing, held_values, held_fonts: from the side that training never sees.
        families: font families by name; empty for those of the split.
        sizes: least and largest body size in pixels.
        worn: whether pages are worn, skewed and photographed.
        cut: how often a page is drawn larger than it is shown.
        quote: whether answers quote the line they come from before the value.
        rounds: how often the page is asked anew, in other words; a round has `proportions.QUESTIONS` at most.
    """

    width: int | None = None
    height: int | None = None
    heights: tuple[int, ...] = ()
    layout: str | None = None
    held_layouts: bool = False
    held_roles: bool = False
    held_phrasing: bool = False
    held_values: bool = False
    held_fonts: bool = False
    families: tuple[str, ...] = ()
    sizes: tuple[float, float] = (8.0, 24.0)
    worn: bool = True
    cut: float = 0.12
    quote: bool = False
    rounds: int = 1


def held_out(**overrides: object) -> MeaningConfig:
    """A configuration with every split on its held-out side."""
    held = {f"held_{n}": True for n in ("layouts", "roles", "phrasing", "values", "fonts")}
    return MeaningConfig(**{**held, **overrides})  # type: ignore[arg-type]


@dataclass(frozen=True)
class MeaningQuestion(Question):
    """A question with its answer and where that stands.

    Attributes:
        role: what is asked for.
        pattern: what the words of the question were made from.
        style: how a value is asked for, as in `proportions.STYLES`; "" for other kinds.
        stands: for each character of the answer its middle in pixels; None where it is not read off the page.
        boxes: around each part of the answer that stands on the page (left, top, right, bottom).
    """

    role: str = ""
    pattern: str = ""
    style: str = ""
    stands: tuple[tuple[float, float] | None, ...] = ()
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class MeaningPage:
    """A page and what is known about it; as `synthetic.Document`, but for fields and cells."""

    image: Image.Image
    layout: str
    font: str
    size: float
    lines: tuple[str, ...]
    glyphs: tuple[Glyph, ...]
    questions: tuple[MeaningQuestion, ...]


def make(
    seed: int | Random,
    config: MeaningConfig | None = None,
    *,
    mode: Literal["L", "RGB"] = "RGB",
    with_glyphs: bool = False,
) -> MeaningPage:
    """Draw the page of a seed.

    Args:
        seed: of the page's random generator, or the generator itself, which is then drawn from.
        config: what to draw; None for any page of the training side of every split.
        mode: "RGB", or "L" for grey.
        with_glyphs: whether the place of every character is kept.

    Raises:
        ModelError: for font families in `config` that are not installed, or a Pillow without FreeType.
    """
    config = config or MeaningConfig()
    rng = seed if isinstance(seed, Random) else Random(seed)
    return _show(rng, *_sound(rng, config), config, mode, with_glyphs)


@dataclass(frozen=True, eq=False)
class LaidOut:
    """A page that is not drawn: what is written on it and where, and questions about it.

    Attributes:
        paper: all of the page.
        layout: its name.
        places: where characters stand in the part of it that would be shown.
        asked: questions about that part.
    """

    paper: Paper
    layout: str
    places: Places
    asked: tuple[Candidate, ...]


def lay_out_page(seed: int | Random, config: MeaningConfig | None = None) -> LaidOut:
    """The page that `make` gives where pages are not worn, without drawing it; for what reads words.

    Args:
        seed: of the page's random generator, or the generator itself.
        config: what to draw; `worn` means nothing here.
    """
    config = config or MeaningConfig()
    rng = seed if isinstance(seed, Random) else Random(seed)
    paper, name, width = _sound(rng, config)
    corner, size = _window(rng, paper.sheet, width, config)
    places = Places(paper.sheet, corner, size, None)
    return LaidOut(paper, name, places, tuple(_ask(rng, paper, in_sight(paper, places), config)))


def _sound(rng: Random, config: MeaningConfig) -> tuple[Paper, str, int]:
    """As `_lay_out`, where all text found its place."""
    while True:
        paper, name, width = _lay_out(rng, config)
        if paper.sheet.runs and _is_sound(paper.sheet):
            return paper, name, width


def _lay_out(rng: Random, config: MeaningConfig) -> tuple[Paper, str, int]:
    """A page without an end, the name of its layout, and the width that is shown of it."""
    name, layout, size, width, shown = _measures(rng, config)
    if rng.random() < 0.5:
        size = max(config.sizes[0], round(size))
    style = make_style(rng, _families(rng, layout, config), (size, size))
    if rng.random() < 0.04:
        style = replace(
            style,
            paper=(25, 28, 35),
            ink=(240, 240, 240),
            muted=(170, 170, 170),
            band=(50, 55, 66),
            accent=(90, 140, 220),
        )
    if rng.random() < 0.5:
        style = replace(style, leading=min(style.leading, 1.35))
    sheet = Sheet(
        rng, Values(rng, config.held_values), style, width, 100_000, 2 if size < 11 or rng.random() < 0.25 else 1
    )
    paper = Paper(sheet, config.held_roles)
    layout.draw(paper)
    return paper, name, shown


def _measures(rng: Random, config: MeaningConfig) -> tuple[str, Layout, float, int, int]:
    """Name and layout of a page, the size of its letters, its width, and how much of that is shown, in pixels."""
    cut = rng.uniform(0.55, 0.95) if rng.random() < config.cut else 1.0
    if config.width is None:
        names = [config.layout] if config.layout else [n for n in LAYOUTS if LAYOUTS[n].held == config.held_layouts]
        name = rng.choices(names, [LAYOUTS[n].share for n in names])[0]
        size = rng.triangular(*config.sizes, config.sizes[0] + 0.25 * (config.sizes[1] - config.sizes[0]))
        letters = rng.uniform(*LAYOUTS[name].letters)
        width = min(round(_WIDEST / cut), max(180, round(size * letters * _ADVANCE)))
        size = min(size, width / (LAYOUTS[name].letters[0] * _ADVANCE))
        return name, LAYOUTS[name], size, width, round(width * cut)
    width = round(config.width / cut)
    names = [config.layout] if config.layout else _fitting(width, config)
    name = rng.choices(names, [LAYOUTS[n].share for n in names])[0]
    low, high = _letters(LAYOUTS[name], width, config.sizes)
    # Rather few large letters than many small ones.
    return name, LAYOUTS[name], width / (rng.triangular(low, high, low) * _ADVANCE), width, config.width


def _letters(layout: Layout, width: int, sizes: tuple[float, float]) -> tuple[float, float]:
    """Letters beside each other that a layout may have at a width, so that they are of a size allowed."""
    low = max(layout.letters[0], width / (sizes[1] * _ADVANCE))
    high = min(layout.letters[1], width / (sizes[0] * _ADVANCE))
    return (low, high) if low <= high else (high, high) if high < layout.letters[0] else (low, low)


def _fitting(width: int, config: MeaningConfig) -> list[str]:
    """The layouts of a side of the split that can be drawn at a width; the one that comes nearest where none can."""
    sides = [n for n, layout in LAYOUTS.items() if layout.held == config.held_layouts]
    comfortable = max(config.sizes[0], min(config.sizes[1], 10.0))
    least, most = width / (config.sizes[1] * _ADVANCE), width / (comfortable * _ADVANCE)
    found = [n for n in sides if LAYOUTS[n].letters[0] <= most and LAYOUTS[n].letters[1] >= least]
    return found or [min(sides, key=lambda n: abs(LAYOUTS[n].letters[0] - most))]


def _families(rng: Random, layout: Layout, config: MeaningConfig) -> Sequence[fonts.Family]:
    """The families that a page may have."""
    if config.families:
        return fonts.by_name(config.families)
    held, roll = config.held_fonts, rng.random()
    if layout.faces == "fixed":
        return faces.fixed(held) if roll < 0.7 else faces.narrow(held) if roll < 0.8 else faces.families(held)
    if layout.faces == "office":
        return faces.office(held) if roll < 0.65 else faces.narrow(held) if roll < 0.72 else faces.families(held)
    return faces.families(held)


def _is_sound(sheet: Sheet) -> bool:
    """Whether all text is on the page and none of it lies over another."""
    boxes = []
    for run in sheet.runs:
        right = run.x + sheet.measure(run.text, run.type)
        if run.line == NO_LINE:
            continue
        if run.x < 0 or right > sheet.width + 1:
            return False
        boxes.append((run.baseline - 0.62 * run.type.size, run.baseline + 0.1 * run.type.size, run.x, right))
    boxes.sort()
    for i, (_, bottom, left, right) in enumerate(boxes):
        for other in boxes[i + 1 :]:
            if other[0] > bottom:
                break
            if other[2] < right - 0.5 and other[3] > left + 0.5:
                return False
    return True


def _show(
    rng: Random,
    paper: Paper,
    name: str,
    width: int,
    config: MeaningConfig,
    mode: Literal["L", "RGB"],
    with_glyphs: bool,
) -> MeaningPage:
    """Cut a page to its size, print it, and ask."""
    sheet = paper.sheet
    (left, top), (width, height) = _window(rng, sheet, width, config)
    drawn = render.draw(sheet, mode)
    if (left, top, width, height) != (0, 0, *drawn.size):
        fill = sheet.style.paper if mode == "RGB" else round(sum(sheet.style.paper) / 3)
        image = Image.new(mode, (width, height), fill)
        image.paste(drawn, (-left, -top))
    else:
        image = drawn
    rotation = None
    if config.worn:
        image, rotation = printing.age(rng, image, sheet.style.family, name, sheet.style.size)
    places = Places(sheet, (left, top), image.size, rotation)
    seen = in_sight(paper, places)
    return MeaningPage(
        image=image,
        layout=name,
        font=sheet.style.family.name,
        size=sheet.style.size,
        lines=tuple(
            text_of((s,), sheet.runs) if isinstance(s, Stretch) else s for s in seen.lines if s not in (" ", "\n")
        ),
        glyphs=tuple(places.glyphs()) if with_glyphs else (),
        questions=tuple(_placed(c, sheet, places, config.quote) for c in _ask(rng, paper, seen, config)),
    )


def _window(rng: Random, sheet: Sheet, width: int, config: MeaningConfig) -> tuple[tuple[int, int], tuple[int, int]]:
    """Ends a page, and says what is shown of it: where that begins (left, top), and its width and height."""
    low = max(sheet.y, *(r.baseline + 0.3 * r.type.size for r in sheet.runs)) + rng.randint(2, 16)
    sheet.height = max(48, round(low))
    height = _height(rng, sheet.height, config)
    left = rng.randint(0, sheet.width - width)
    if sheet.height > height:
        top = rng.randint(0, sheet.height - height)
    else:
        top = -rng.choice((0, 0, rng.randint(0, height - sheet.height)))
    return (left, top), (width, height)


def _ask(rng: Random, paper: Paper, seen: Seen, config: MeaningConfig) -> list[Candidate]:
    """Questions about a page, in so many rounds."""
    rounds = range(config.rounds)
    return [c for _ in rounds for c in ask.choose(rng, ask.candidates(rng, paper, seen, config.held_phrasing))]


def _height(rng: Random, content: int, config: MeaningConfig) -> int:
    """How high the page is shown."""
    if config.height is not None:
        return config.height
    if config.heights:
        allowed = [h for h in config.heights if h >= content]
        return allowed[0] if allowed and rng.random() < 0.9 else rng.choice(allowed or config.heights[-1:])
    return content if rng.random() > config.cut else max(48, round(content * rng.uniform(0.5, 0.9)))


def _placed(c: Candidate, sheet: Sheet, places: Places, quote: bool) -> MeaningQuestion:
    """A question with the places of its answer's characters."""
    answer: Pieces = (*c.quote, QUOTE_MARK, *c.answer) if quote and c.quote else c.answer
    stands: list[tuple[float, float] | None] = []
    for piece in answer:
        stands += [None] * len(piece) if isinstance(piece, str) else places.of(piece)
    boxes = tuple(places.box(s) for s in stretches(c.answer))
    return MeaningQuestion(
        c.kind, c.text, text_of(answer, sheet.runs), c.role, c.pattern, c.style, tuple(stands), boxes
    )
