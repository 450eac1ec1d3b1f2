"""From a laid-out sheet to pixels, word boxes and character places; scans included.

Pages may be drawn at twice their size and reduced, which gives the sub-pixel glyph positions of a browser.
"""

from __future__ import annotations

import functools
import io
import math
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from rave_mlx.synthetic.sheet import NO_LINE, Color, Sheet, Type, resolve


@dataclass(frozen=True)
class Word:
    """A word as drawn: its text, line number, and ink box (left, top, right, bottom) in image pixels."""

    text: str
    line: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Glyph:
    """Where the middle of a character is; `line` as in `Word`. Spaces within a line have no glyph."""

    character: str
    line: int
    x: float
    y: float


Rotation = tuple[float, float, float, float]
"""cos, sin of the skew and the centre of the page."""


def draw(sheet: Sheet, mode: Literal["L", "RGB"]) -> Image.Image:
    """The clean page. In mode L every colour becomes the mean of its channels, as a grey-weighted model sees it."""
    scale = sheet.scale

    def paint(color: Color | None) -> int | Color | None:
        """A colour as the image mode takes it."""
        return color if mode == "RGB" or color is None else round(sum(color) / 3)

    image = Image.new(mode, (sheet.width * scale, sheet.height * scale), paint(sheet.style.paper))
    pen = ImageDraw.Draw(image)
    for shape in sheet.shapes:
        if shape.box is not None:
            left, top, right, bottom = (round(v * scale) for v in shape.box)
            box = (left, top, max(left, right), max(top, bottom))
            pen.rectangle(box, paint(shape.fill), paint(shape.outline), shape.width * scale)
        else:
            points = [(round(x * scale), round(y * scale)) for x, y in shape.points]
            pen.line(points, paint(shape.outline), shape.width * scale)
    for run in sheet.runs:
        font = resolve(run.type, scale)
        pen.text((run.x * scale, run.baseline * scale), run.text, paint(run.color), font, anchor="ls")
    return image if scale == 1 else image.resize((sheet.width, sheet.height), Image.Resampling.BOX)


def words(sheet: Sheet, rotation: Rotation | None) -> list[Word]:
    """Every word of the page with its box."""
    out = []
    for run in sheet.runs:
        if run.line == NO_LINE:
            continue
        font, at = resolve(run.type, sheet.scale), 0
        for text in run.text.split():
            at = run.text.index(text, at)
            x = run.x + font.getlength(run.text[:at]) / sheet.scale
            left, top, right, bottom = (v / sheet.scale for v in font.getbbox(text, anchor="ls"))
            box = (x + left, run.baseline + top, x + right, run.baseline + bottom)
            out.append(Word(text, run.line, _turn_box(box, rotation)))
            at += len(text)
    return out


def glyphs(sheet: Sheet, rotation: Rotation | None) -> list[Glyph]:
    """Every character of the page, for cell supervision; advances scaled so that kerning does not add up."""
    out = []
    for run in sheet.runs:
        if run.line == NO_LINE or not run.text:
            continue
        advances = [_advance(run.type, sheet.scale, c) for c in run.text]
        stretch = sheet.measure(run.text, run.type) / max(sum(advances), 1e-6)
        x, y = run.x, run.baseline - 0.3 * run.type.size  # half the height of a lower-case letter, about
        for character, advance in zip(run.text, advances, strict=True):
            middle = x + advance * stretch / 2
            x += advance * stretch
            out.append(Glyph(character, run.line, *_turn(middle, y, rotation)))
    return out


@functools.lru_cache(maxsize=1024)
def _advances(kind: Type, scale: int) -> dict[str, float]:
    """Character to advance in one face; filled as characters come up."""
    return {}


def _advance(kind: Type, scale: int, character: str) -> float:
    """Width of a character in a face, in pixels at `scale` times the size."""
    known = _advances(kind, scale)
    if character not in known:
        known[character] = resolve(kind, scale).getlength(character)
    return known[character]


def _turn(x: float, y: float, rotation: Rotation | None) -> tuple[float, float]:
    """A point of the clean page as it lies on the rotated one."""
    if rotation is None:
        return x, y
    cos, sin, cx, cy = rotation
    return cx + cos * (x - cx) + sin * (y - cy), cy - sin * (x - cx) + cos * (y - cy)


def _turn_box(box: tuple[float, float, float, float], rotation: Rotation | None) -> tuple[float, float, float, float]:
    """The upright box around a box of the clean page as it lies on the rotated one."""
    corners = [_turn(x, y, rotation) for x in (box[0], box[2]) for y in (box[1], box[3])]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def scan(rng: Random, image: Image.Image) -> tuple[Image.Image, Rotation | None]:
    """What a scanner or a phone does: skew, blur, shadow, noise, JPEG; each only sometimes.

    Args:
        rng: the generator to draw from.
        image: the clean page.

    Returns:
        The page, and by what it was rotated (None: not at all), so that boxes can follow.
    """
    rotation = None
    fill = image.getpixel((1, 1))
    if rng.random() < 0.35:
        angle = rng.gauss(0, 0.7)
        image = image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=fill)
        turn = math.radians(angle)
        rotation = (math.cos(turn), math.sin(turn), image.width / 2, image.height / 2)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
    if rng.random() < 0.5:
        image = _light(rng, image)
    if rng.random() < 0.15:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randint(35, 90))
        image = Image.open(buffer)
        image.load()
    return image, rotation


def _light(rng: Random, image: Image.Image) -> Image.Image:
    """A gradient of light across the page, and sensor noise."""
    pixels = np.asarray(image, np.float32)
    depth = pixels.shape[2:]
    if rng.random() < 0.5:
        ramp = np.linspace(-1, 1, pixels.shape[1], dtype=np.float32)[None] * rng.uniform(-25, 25)
        fall = np.linspace(-1, 1, pixels.shape[0], dtype=np.float32)[:, None] * rng.uniform(-20, 20)
        pixels = pixels + (ramp + fall).reshape(pixels.shape[:2] + (1,) * len(depth))
    if rng.random() < 0.7:
        source = np.random.default_rng(rng.getrandbits(32))
        noise = source.standard_normal(pixels.shape[:2], dtype=np.float32) * rng.uniform(1, 12)
        pixels = pixels + noise.reshape(pixels.shape[:2] + (1,) * len(depth))
    clean: NDArray[np.uint8] = np.clip(pixels, 0, 255).astype(np.uint8)
    return Image.fromarray(clean)
