"""An `AttentionMap` as a picture: the mean over the answer, then a page for every token of it.

Every page has its own colours, from nothing to its peak, and says what its peak is; pages that are to be compared
share one range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rave_mlx.look.colors import STEPS, attention_scale, difference_scale, tint
from rave_mlx.look.maps import AttentionMap, Floats, default_layers, name_numbers

WIDTH = 1400
MOST_PAGES = 24
"""Pages of single tokens in a picture; longer answers are drawn as stretches of tokens."""
_MARGIN, _GAP, _TEXT, _LEAST_WIDTH = 36, 18, 20, (130, 170)
_INK, _MUTED, _GROUND, _FRAME = (28, 30, 34), (96, 100, 108), (255, 255, 255), (205, 208, 214)
_FONTS = ("DejaVuSans.ttf", "Arial Unicode.ttf")
"""Faces with more letters than Pillow's own, which is used where neither is installed."""


@dataclass(frozen=True)
class _Page:
    """A drawn page: its caption, its values (V,), the value of full colour, and figures for the caption's right end."""

    caption: str
    values: Floats
    peak: float
    signed: bool = False
    figures: str = ""


def draw(
    seen: AttentionMap,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    width: int = WIDTH,
) -> Image.Image:
    """Where every token of the answer looked, and their mean.

    Args:
        seen: from `collect`.
        layers: layers to take the mean of; None for `maps.default_layers`.
        heads: heads to take the mean of; None for all.
        width: of the picture, in pixels.

    Raises:
        UsageError: for layers or heads that the model does not have.
    """
    mean = seen.over(layers=layers, heads=heads)
    pages = [_page(_span_caption(seen, span), _mean(seen, span, layers, heads), seen) for span in _spans(seen)]
    lead = _page("mean over the answer", mean, seen)
    title = f"{seen.question.strip()} → {seen.answer}"
    note = f"attention: {seen.attention} · {describe(seen, layers, heads)}"
    note += " · above each page: attention on it · on its peak cell"
    return _compose(seen, title, note, lead, pages, width)


def draw_comparison(
    runs: Sequence[AttentionMap],
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    width: int = WIDTH,
) -> Image.Image:
    """The mean maps of several runs beside each other, with one range of colours, and what changed against the first.

    Args:
        runs: from `compare`, about the same images.
        layers: layers to take the mean of; None for `maps.default_layers`.
        heads: heads to take the mean of; None for all.
        width: of the picture, in pixels.

    Raises:
        UsageError: for layers or heads that the model does not have.
    """
    means = [run.over(layers=layers, heads=heads) for run in runs]
    peak = max(_peak(run, mean) for run, mean in zip(runs, means, strict=True))
    upper = [_Page(f"{run.attention}: {_short(run.answer)}", mean, peak) for run, mean in zip(runs, means, strict=True)]
    changes = [mean - means[0] for mean in means[1:]]
    range_ = max((_peak(runs[0], np.abs(change)) for change in changes), default=0.0)
    lower = [
        _Page(f"{run.attention} − {runs[0].attention}", change, range_, signed=True)
        for run, change in zip(runs[1:], changes, strict=True)
    ]
    inner = width - 2 * _MARGIN
    note = f"mean over the answer · {describe(runs[0], layers, heads)}"
    rows = [_header(runs[0].question.strip(), note, inner)]
    if len(runs) == 2:
        rows += [
            _row(runs[0], [*upper, *lower], inner, 3),
            _legend(upper[0], inner, shared=True),
            _legend(lower[0], inner),
        ]
        return _stack(rows, width)
    for skip, pages in enumerate((upper, lower)):
        if pages:
            rows += [_row(runs[0], pages, inner, len(upper), skip), _legend(pages[0], inner, shared=True)]
    return _stack(rows, width)


def describe(seen: AttentionMap, layers: Sequence[int] | None, heads: Sequence[int] | None) -> str:
    """Which layers and heads a map shows, in words.

    Args:
        seen: the run.
        layers: as of `draw`.
        heads: as of `draw`.
    """
    chosen = list(default_layers(seen.num_layers) if layers is None else layers)
    of_heads = f"mean of {seen.num_heads} heads" if heads is None else f"heads {name_numbers(heads)}"
    of_layers = f"layer{'s' if len(chosen) > 1 else ''} {name_numbers(chosen)} of 0–{seen.num_layers - 1}"
    if seen.layer_note:
        of_layers += f" (of the {seen.layer_note})"
    return f"{of_layers} · {of_heads}"


def token_label(seen: AttentionMap, index: int) -> str:
    """What a token wrote, with white space made visible."""
    token = seen.tokens[index]
    if token.stop:
        return "end of answer"
    return token.text.replace(" ", "␣") or "·"


def _spans(seen: AttentionMap) -> list[list[int]]:
    """The answer's tokens, one by one, or in as many stretches as there is room for."""
    tokens = seen.text_tokens
    return [part.tolist() for part in np.array_split(tokens, min(len(tokens), MOST_PAGES))]


def _mean(seen: AttentionMap, span: Sequence[int], layers: Sequence[int] | None, heads: Sequence[int] | None) -> Floats:
    """(V,) the mean map over some tokens of the answer."""
    found: Floats = np.mean([seen.over(i, layers=layers, heads=heads) for i in span], axis=0)
    return found


def _span_caption(seen: AttentionMap, span: Sequence[int]) -> str:
    return "".join(token_label(seen, i) for i in span)


def _page(label: str, values: Floats, seen: AttentionMap) -> _Page:
    """A page with a range of colours of its own."""
    peak = _peak(seen, values)
    return _Page(_short(label), values, peak, figures=f"{values.sum():.0%} · {peak:.1%}")


def _peak(seen: AttentionMap, values: Floats) -> float:
    """The largest value of the drawn pages."""
    heats = [seen.heat(values, i, _fit(image.picture.size, 400)) for i, image in enumerate(seen.images)]
    return max(float(np.abs(heat).max()) for heat in heats)


def _short(text: str, most: int = 28) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _fit(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Width and height scaled so that the longer one is `longest`."""
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _aspect(seen: AttentionMap) -> float:
    """Width over height of all images beside each other, drawn with one height."""
    return sum(image.picture.width / image.picture.height for image in seen.images)


def _strip(seen: AttentionMap, page: _Page, width: int) -> Image.Image:
    """All images beside each other with a page's values on them, `width` pixels wide."""
    gaps = (len(seen.images) - 1) * 6
    height = max(24, round((width - gaps) / _aspect(seen)))
    out = Image.new("RGB", (width, height + 2), _GROUND)
    left = 0
    for index, image in enumerate(seen.images):
        own = min(width - left, max(1, round(height * image.picture.width / image.picture.height)))
        size = (own, height)
        heat = seen.heat(page.values, index, size) / (page.peak or 1.0)
        picture = image.picture.resize(size, Image.Resampling.LANCZOS)
        tinted = tint(picture, heat, signed=page.signed)
        ImageDraw.Draw(tinted).rectangle((0, 0, own - 1, height - 1), outline=_FRAME)
        out.paste(tinted, (left, 0))
        left += own + 6
    return out


def _captioned(seen: AttentionMap, page: _Page, width: int, size: int = 16) -> Image.Image:
    """A page under its caption, whose type is `size` pixels high."""
    strip = _strip(seen, page, width)
    out = Image.new("RGB", (width, strip.height + size + 8), _GROUND)
    pen, small = ImageDraw.Draw(out), _font(size - 3)
    pen.text((width, 2), page.figures, _MUTED, small, anchor="ra")
    pen.text(
        (0, 0), _cut(page.caption, width - round(small.getlength(page.figures)) - 8, _font(size)), _INK, _font(size)
    )
    out.paste(strip, (0, size + 8))
    return out


def _row(seen: AttentionMap, pages: Sequence[_Page], width: int, columns: int, skip: int = 0) -> Image.Image:
    """Pages beside each other, `columns` to a row, the first `skip` places left empty."""
    own = (width - (columns - 1) * _GAP) // columns
    drawn = [_captioned(seen, page, own) for page in pages]
    rows = [drawn[i : i + columns] for i in range(0, len(drawn), columns)]
    height = drawn[0].height
    out = Image.new("RGB", (width, len(rows) * (height + _GAP) - _GAP), _GROUND)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            out.paste(image, ((c + skip) * (own + _GAP), r * (height + _GAP)))
    return out


def _compose(seen: AttentionMap, title: str, note: str, lead: _Page, pages: Sequence[_Page], width: int) -> Image.Image:
    """The mean at the left and tokens at the right; of wide pages, the mean above and tokens below."""
    inner, aspect = width - 2 * _MARGIN, _aspect(seen)
    rows = [_header(title, note, inner)]
    if aspect < 2.2:
        left = round(inner * (0.42 if aspect < 1 else 0.5))
        right = inner - left - 2 * _GAP
        main = _captioned(seen, lead, left)
        grid = _row(seen, pages, right, _columns(len(pages), right, main.height, aspect))
        both = Image.new("RGB", (inner, max(main.height, grid.height)), _GROUND)
        both.paste(main, (0, 0))
        both.paste(grid, (left + 2 * _GAP, 0))
        rows.append(both)
    else:
        rows += [_captioned(seen, lead, inner), _row(seen, pages, inner, _columns(len(pages), inner, 700, aspect))]
    return _stack([*rows, _legend(lead, inner)], width)


def _columns(count: int, width: int, height: int, aspect: float) -> int:
    """Fewest columns with which `count` pages take about `height`; a page stays as wide as its caption needs."""
    most = max(1, width // _LEAST_WIDTH[aspect > 0.8])
    for columns in range(1, most):
        own = (width - (columns - 1) * _GAP) / columns
        if -(-count // columns) * (own / aspect + 24 + _GAP) <= 1.2 * height:
            return columns
    return most


def _header(title: str, note: str, width: int) -> Image.Image:
    """The title, and a smaller line below it."""
    out = Image.new("RGB", (width, 2 * _TEXT + 30), _GROUND)
    pen = ImageDraw.Draw(out)
    pen.text((0, 0), _cut(title, width, _font(_TEXT + 4)), _INK, _font(_TEXT + 4))
    pen.text((0, _TEXT + 16), _cut(note, width, _font(_TEXT - 5)), _MUTED, _font(_TEXT - 5))
    return out


def _legend(page: _Page, width: int, *, shared: bool = False) -> Image.Image:
    """The colours with what they stand for; they follow the root of attention. `shared`: all pages have this peak."""
    bar, height = min(360, width), 14
    out = Image.new("RGB", (width, height + 26), _GROUND)
    table = difference_scale() if page.signed else attention_scale()
    steps = np.linspace(0, STEPS - 1, bar).round().astype(int)
    out.paste(Image.fromarray(np.repeat(table[steps][None], height, axis=0)), (0, 0))
    pen = ImageDraw.Draw(out)
    pen.rectangle((0, 0, bar - 1, height - 1), outline=_FRAME)
    if page.signed:
        marks = [(0.0, f"−{page.peak:.1%}"), (0.5, "0"), (1.0, f"+{page.peak:.1%} of attention, on one cell")]
    else:
        top = f"{page.peak:.1%} of attention" if shared else "peak of each page, of attention"
        marks = [(0.0, "0"), (0.5, f"{page.peak / 4:.1%}" if shared else "¼ peak"), (1.0, f"{top}, on one cell")]
    for place, text in marks:
        anchor = {0.0: "la", 0.5: "ma", 1.0: "la"}[place]
        x = bar + 10 if place == 1.0 else round(place * bar)
        y = -1 if place == 1.0 else height + 5
        pen.text((x, y), text, _MUTED, _font(14), anchor=anchor)
    return out


def _stack(rows: Sequence[Image.Image], width: int) -> Image.Image:
    """Rows below each other within margins, on a picture `width` pixels wide."""
    height = sum(row.height for row in rows) + (len(rows) - 1) * _GAP + 2 * _MARGIN
    out = Image.new("RGB", (width, height), _GROUND)
    top = _MARGIN
    for row in rows:
        out.paste(row, (_MARGIN, top))
        top += row.height + _GAP
    return out


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text on one line, shortened to a width in pixels."""
    text = "".join(c if c.isprintable() else {"\n": "↵", "\t": "⇥"}.get(c, "·") for c in text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The first face that is installed, else Pillow's own."""
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
