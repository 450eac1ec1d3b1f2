"""Where the characters of a page are in the image that shows it."""

from __future__ import annotations

from collections.abc import Iterator

from rave_mlx.synthetic import render
from rave_mlx.synthetic.meaning.facts import Stretch
from rave_mlx.synthetic.render import Glyph, Rotation
from rave_mlx.synthetic.sheet import NO_LINE, Sheet

Box = tuple[float, float, float, float]
_CLEAR = 1.5
"""Pixels that must lie between a text and the edge."""


class Places:
    """Characters, boxes and what can be seen of them.

    Args:
        sheet: the page.
        corner: where the image begins on it (left, top).
        size: of the image (width, height).
        rotation: of the image, as `render.scan` gives it.
    """

    def __init__(self, sheet: Sheet, corner: tuple[int, int], size: tuple[int, int], rotation: Rotation | None) -> None:
        self.sheet, self.corner, self.size, self.rotation = sheet, corner, size, rotation
        self._of_run: dict[int, list[Glyph]] = {}
        self._widths: dict[int, float] = {}
        found = iter(render.glyphs(sheet, None))
        for number, run in enumerate(sheet.runs):
            if run.line != NO_LINE and run.text:
                self._of_run[number] = [next(found) for _ in run.text]

    def _turn(self, x: float, y: float) -> tuple[float, float]:
        """A point of the sheet in the image."""
        x, y = x - self.corner[0], y - self.corner[1]
        if self.rotation is None:
            return x, y
        cos, sin, cx, cy = self.rotation
        return cx + cos * (x - cx) + sin * (y - cy), cy - sin * (x - cx) + cos * (y - cy)

    def of(self, stretch: Stretch) -> list[tuple[float, float]]:
        """The middle of each character."""
        return [self._turn(g.x, g.y) for g in self._of_run[stretch.run][stretch.start : stretch.end]]

    def box(self, stretch: Stretch) -> Box:
        """The upright box around a stretch."""
        run = self.sheet.runs[stretch.run]
        left = run.x + (self.sheet.measure(run.text[: stretch.start], run.type) if stretch.start else 0.0)
        if stretch.end < len(run.text):
            right = run.x + self.sheet.measure(run.text[: stretch.end], run.type)
        else:
            if stretch.run not in self._widths:
                self._widths[stretch.run] = self.sheet.measure(run.text, run.type)
            right = run.x + self._widths[stretch.run]
        size = run.type.size
        corners = [
            self._turn(x, y) for x in (left, right) for y in (run.baseline - 0.78 * size, run.baseline + 0.22 * size)
        ]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def sight(self, stretch: Stretch) -> float:
        """1 for a stretch that is whole in the image, 0 for one of which nothing is, 0.5 for others."""
        left, top, right, bottom = self.box(stretch)
        width, height = self.size
        if right < 0 or bottom < 0 or left > width or top > height:
            return 0
        # Below the baseline there are tails only.
        low = (bottom - top) * 0.15
        inside = left >= _CLEAR and top >= -low and right <= width - _CLEAR and bottom - low <= height
        return 1 if inside else 0.5

    def sees(self, box: Box) -> bool:
        """Whether a box of the sheet is whole in the image."""
        corners = [self._turn(x, y) for x in (box[0], box[2]) for y in (box[1], box[3])]
        return all(0 <= x <= self.size[0] and 0 <= y <= self.size[1] for x, y in corners)

    def glyphs(self) -> Iterator[Glyph]:
        """The characters whose middle is in the image, as it shows them."""
        for glyphs in self._of_run.values():
            for g in glyphs:
                x, y = self._turn(g.x, g.y)
                if 0 <= x < self.size[0] and 0 <= y < self.size[1]:
                    yield Glyph(g.character, g.line, x, y)
