"""What paper, printers, light and cameras do to a page: own small functions on grey or coloured images."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from rave_mlx.synthetic.fonts import Family, face
from rave_mlx.synthetic.render import Rotation

Pixels = NDArray[np.float32]
STAMPS = ("PAID", "COPY", "RECEIVED", "ORIGINAL", "DUPLICATE", "CONFIDENTIAL", "CHECKED", "FILED", "URGENT")


def _noise(rng: Random) -> np.random.Generator:
    return np.random.default_rng(rng.getrandbits(32))


def _smooth(rng: Random, count: int, knots: int) -> Pixels:
    """A smooth random curve between 0 and 1."""
    points = _noise(rng).random(max(2, knots), dtype=np.float32)
    return np.interp(np.linspace(0, len(points) - 1, count), np.arange(len(points)), points).astype(np.float32)


def _like(field: Pixels, pixels: Pixels) -> Pixels:
    """A field of one value a pixel (or row or column), to be used with pixels of any depth."""
    return field if pixels.ndim == 2 else field[..., None]


def thermal(rng: Random, pixels: Pixels) -> Pixels:
    """A worn thermal head: ink fades in stripes, single rows are missing."""
    paper = float(pixels.max())
    rows = 1 - rng.uniform(0.1, 0.45) * _smooth(rng, pixels.shape[0], pixels.shape[0] // rng.randint(12, 60))
    columns = 1 - rng.uniform(0, 0.35) * _smooth(rng, pixels.shape[1], rng.randint(3, 12))
    ink = _like(rows[:, None] * columns[None], pixels)
    return paper - (paper - pixels) * ink


def dots(rng: Random, pixels: Pixels) -> Pixels:
    """A needle printer: ink in a grid of dots."""
    paper, pitch = float(pixels.max()), rng.choice((2.0, 2.5, 3.0))
    y = np.cos(np.arange(pixels.shape[0], dtype=np.float32) * (2 * math.pi / pitch))
    x = np.cos(np.arange(pixels.shape[1], dtype=np.float32) * (2 * math.pi / pitch))
    mask = 1 - rng.uniform(0.15, 0.4) * (0.5 - 0.25 * (y[:, None] + x[None]))
    return paper - (paper - pixels) * _like(mask, pixels)


def faint(rng: Random, pixels: Pixels) -> Pixels:
    """Little contrast: old paper, little toner."""
    low, high = rng.uniform(40, 130), rng.uniform(190, 250)
    return low + pixels * ((high - low) / 255)


def shadow(rng: Random, pixels: Pixels) -> Pixels:
    """Light that falls off, with the soft edge of a shadow."""
    h, w = pixels.shape[:2]
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.linspace(-1, 1, h, dtype=np.float32)[:, None], np.linspace(-1, 1, w, dtype=np.float32)[None]
    along = math.cos(angle) * x + math.sin(angle) * y
    edge = 1 / (1 + np.exp(-np.clip((along - rng.uniform(-0.8, 0.8)) * rng.uniform(2, 18), -30, 30)))
    return pixels * _like(1 - rng.uniform(0.08, 0.4) * edge.astype(np.float32), pixels)


def grain(rng: Random, pixels: Pixels) -> Pixels:
    """Noise of a sensor."""
    field = _noise(rng).standard_normal(pixels.shape[:2], dtype=np.float32) * rng.uniform(1, 11)
    return pixels + _like(field, pixels)


def specks(rng: Random, pixels: Pixels) -> Pixels:
    """Dust of a copier: dark and bright points."""
    field = _noise(rng).random(pixels.shape[:2], dtype=np.float32)
    share = rng.uniform(0.0002, 0.002)
    out = pixels.copy()
    out[field < share] = rng.uniform(0, 110)
    out[field > 1 - share] = 255
    return out


def creases(rng: Random, pixels: Pixels) -> Pixels:
    """Folds: bright or dark lines across the page."""
    out = pixels.copy()
    for _ in range(rng.randint(1, 2)):
        change = rng.choice((-1, 1)) * rng.uniform(10, 45)
        if rng.random() < 0.6:
            row = rng.randrange(pixels.shape[0])
            out[row : row + 1] += change
        else:
            column = rng.randrange(pixels.shape[1])
            out[:, column : column + 1] += change
    return out


_FIELDS: tuple[tuple[float, Callable[[Random, Pixels], Pixels]], ...] = (
    (0.12, faint), (0.22, shadow), (0.35, grain), (0.07, specks), (0.08, creases),
)  # fmt: skip


def stamp(rng: Random, image: Image.Image, family: Family) -> Image.Image:
    """A rubber stamp, turned and pale, so that what it covers can still be read.

    Args:
        rng: the generator to draw from.
        image: the page.
        family: of its letters.
    """
    text, size = rng.choice(STAMPS), rng.uniform(14, 30)
    font = face(family, size, bold=True)
    wide, high = int(font.getlength(text) + size), int(size * 1.9)
    mask = Image.new("L", (wide, high), 0)
    pen = ImageDraw.Draw(mask)
    (pen.rectangle if rng.random() < 0.6 else pen.ellipse)((1, 1, wide - 2, high - 2), outline=255, width=2)
    pen.text((wide / 2, high / 2), text, 255, font, anchor="mm")
    mask = mask.rotate(rng.uniform(-30, 30), Image.Resampling.BILINEAR, expand=True)
    strength = rng.uniform(0.3, 0.6)
    mask = mask.point(lambda v: int(v * strength))
    color = rng.choice(((170, 30, 40), (30, 40, 150), (60, 60, 60), (20, 110, 60)))
    ink = Image.new(image.mode, mask.size, color if image.mode == "RGB" else round(sum(color) / 3))
    at = (rng.randint(0, max(0, image.width - mask.width)), rng.randint(0, max(0, image.height - mask.height)))
    out = image.copy()
    out.paste(ink, at, mask)
    return out


def scribble(rng: Random, image: Image.Image) -> Image.Image:
    """A stroke of a pen: a tick, a wave below a line or a ring, thin enough to read what is under it."""
    out = image.copy()
    pen = ImageDraw.Draw(out)
    color = rng.choice(((30, 40, 140), (160, 40, 40), (50, 50, 50)))
    ink = color if image.mode == "RGB" else round(sum(color) / 3)
    x, y, size = rng.uniform(0, image.width), rng.uniform(0, image.height), rng.uniform(12, 60)
    form = rng.choice(("wave", "ring", "tick"))
    if form == "wave":
        points = [(x + i * size / 12, y + math.sin(i) * rng.uniform(1, 3)) for i in range(24)]
    elif form == "ring":
        points = [(x + size * math.cos(i / 4), y + size * 0.35 * math.sin(i / 4)) for i in range(27)]
    else:
        points = [(x, y), (x + size * 0.2, y + size * 0.3), (x + size * 0.7, y - size * 0.4)]
    pen.line(points, ink, 1 if rng.random() < 0.7 else 2)
    return out


def age(rng: Random, image: Image.Image, family: Family, kind: str, size: float) -> tuple[Image.Image, Rotation | None]:
    """A page as it was printed and photographed; each effect only sometimes, and often none.

    Args:
        rng: the generator to draw from.
        image: the clean page.
        family: of stamps.
        kind: the layout; tills print on thermal paper.
        size: of the body's letters in pixels; small ones are spared what would hide them.

    Returns:
        The page, and by what it was rotated (None: not at all).
    """
    if rng.random() < 0.3:
        return image, None
    if rng.random() < 0.06:
        image = stamp(rng, image, family)
    if rng.random() < 0.05:
        image = scribble(rng, image)
    pixels: Pixels = np.asarray(image, np.float32)
    paper_light = float(np.median(pixels)) > 140
    if paper_light and kind in ("till", "slip", "ticket") and rng.random() < 0.45:
        pixels = thermal(rng, pixels)
    elif paper_light and size >= 12 and rng.random() < 0.06:
        pixels = dots(rng, pixels)
    for share, effect in _FIELDS:
        if rng.random() < share * (0.5 if size < 10 else 1.0):
            pixels = effect(rng, pixels)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    rotation = None
    if rng.random() < 0.3:
        angle = rng.gauss(0, 0.8)
        fill = (
            tuple(int(v) for v in np.median(pixels.reshape(-1, pixels.shape[2]), 0))
            if pixels.ndim == 3
            else int(np.median(pixels))
        )
        image = image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=fill)
        turn = math.radians(angle)
        rotation = (math.cos(turn), math.sin(turn), image.width / 2, image.height / 2)
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9 if size >= 11 else 0.5)))
    if size >= 12 and rng.random() < 0.12:
        factor = rng.uniform(0.6, 0.9)
        small = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BILINEAR)
        image = small.resize(image.size, Image.Resampling.BICUBIC)
    if rng.random() < 0.2:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randint(30 if size >= 11 else 55, 90))
        image = Image.open(buffer)
        image.load()
    return image, rotation
