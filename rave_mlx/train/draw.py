"""Training examples as the model sees them: images at the resolution it reads, tokens with the trained ones marked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rave_mlx.config import ImageConfig, Images
from rave_mlx.errors import ModelError
from rave_mlx.inputs.images.patch_order import in_reading_order
from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.models.lmm import LMM
from rave_mlx.train.dataset import Dataset
from rave_mlx.train.example import Example

WIDTH, MARGIN, LINE, SIZE = 1200, 24, 26, 16
_FONTS = ("DejaVuSans.ttf", "Arial Unicode.ttf", "Arial.ttf")
_PLAIN, _TRAINED, _CONTROL, _IMAGE = "#ffffff", "#b6e8bd", "#e3e6ee", "#ffe3b8"
_LONGEST = 4000
"""Lines of tokens after which an example is cut, with a note."""


@dataclass(frozen=True)
class Piece:
    """One token's text, or a run of visual tokens; `colour` behind it; `breaks` where a line ends after it."""

    text: str
    colour: str
    breaks: bool = False


def draw_examples(lmm: LMM, dataset: Dataset, out: Path, *, count: int = 3) -> Path:
    """Write a PNG of up to `count` examples, spread over the data set.

    Raises:
        DataError: when an image of them cannot be read. ModelError: when the file cannot be written.
    """
    chosen = sorted({round(i) for i in np.linspace(0, len(dataset) - 1, min(count, len(dataset)))})
    drawn = [draw_example(lmm, dataset[index]) for index in chosen]
    legend = _legend()
    page = Image.new("RGB", (WIDTH, legend.height + sum(image.height for image in drawn)), "white")
    top = 0
    for image in (legend, *drawn):
        page.paste(image, (0, top))
        top += image.height
    try:
        page.save(out)
    except OSError as error:
        raise ModelError(f"{out}: cannot be written ({error.strerror or error})") from None
    return out


def draw_example(lmm: LMM, example: Example) -> Image.Image:
    """One example: its name, its images, its tokens."""
    font = _font(SIZE)
    prompt = example.prompt
    title = (
        f"{example.where}: {len(example):,} tokens, {prompt.visual_tokens:,} visual, {int(example.loss_mask.sum()):,} "
        "trained on"
    )
    config = lmm.config.image
    shown = [image for patches in prompt.images for image in seen(patches, config)] if config is not None else []
    places, tops = _flow([_fitted(image).size for image in shown], gap=8)
    lines = _lines(list(pieces(lmm, example)), font)
    height = MARGIN + 2 * LINE + tops + LINE * (len(lines) + 1)
    page = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(page)
    draw.line([(MARGIN, 4), (WIDTH - MARGIN, 4)], fill="#999999")
    draw.text((MARGIN, MARGIN - 8), title, fill="black", font=_font(SIZE + 2))
    for image, (left, top) in zip(shown, places, strict=True):
        fitted = _fitted(image)
        corner = (left, top + MARGIN + LINE)
        page.paste(fitted, corner)
        end = (corner[0] + fitted.width, corner[1] + fitted.height)
        draw.rectangle([corner[0] - 1, corner[1] - 1, *end], outline="#bbbbbb")
    baseline = MARGIN + 2 * LINE + tops
    for line in lines:
        start = float(MARGIN)
        for piece in line:
            wide = font.getlength(piece.text)
            draw.rectangle([start, baseline, start + wide, baseline + LINE - 4], fill=piece.colour)
            draw.text((start, baseline), piece.text, fill="black", font=font)
            start += wide + 1
        baseline += LINE
    return page


def seen(patches: ImagePatches, config: Images) -> list[Image.Image]:
    """What the tower gets of an image, back from its pixels: one picture, or one for each tile."""
    tiles, rows, columns = patches.grid
    side = config.patch_size
    if isinstance(config, ImageConfig):
        split = patches.pixels.reshape(rows * columns, 3, -1, side, side)[:, :, 0]
        grid = in_reading_order(split, rows, columns, config.merge_size)
        levels = grid.transpose(0, 3, 1, 4, 2).reshape(1, rows * side, columns * side, 3)
        return _pictures(levels, config)
    first, found = tiles * rows * columns, []
    views = [(rows, columns, patches.pixels[:first])]
    if config.overview is not None:
        across = config.overview.size // side
        views.append((across, across, patches.pixels[first:]))
    for down, across, pixels in views:
        split = pixels.reshape(-1, down, across, 3, side, side)
        found += _pictures(split.transpose(0, 1, 4, 2, 5, 3).reshape(-1, down * side, across * side, 3), config)
    return found


def _pictures(levels: NDArray[np.float32], config: Images) -> list[Image.Image]:
    """Pictures of normalised pixels (tiles, height, width, 3)."""
    unit = levels * np.array(config.std, np.float32) + np.array(config.mean, np.float32)
    return [Image.fromarray(tile) for tile in (unit * 255).round().clip(0, 255).astype(np.uint8)]


def pieces(lmm: LMM, example: Example) -> Iterator[Piece]:
    """The example's tokens as text."""
    prompt, tokenizer = example.prompt, lmm.tokenizer
    image, ids = prompt.token_map.image, prompt.ids[0].tolist()
    words = tokenizer.stream()
    for index, token in enumerate(ids):
        if image[index] >= 0:
            if index == 0 or image[index - 1] != image[index]:
                others = np.flatnonzero(image[index:] != image[index])
                run = int(others[0]) if others.size else len(ids) - index
                yield Piece(f" image {image[index] + 1}: {run} tokens ", _IMAGE)
            continue
        name = tokenizer.token(token) or ""
        control = name in tokenizer.control
        colour = _TRAINED if example.loss_mask[index] else _CONTROL if control else _PLAIN
        text = name if control else words.add(token)
        *whole, rest = text.split("\n")
        for part in whole:
            yield Piece(part + "↵", colour, breaks=True)
        if rest:
            yield Piece(rest.replace("\t", "→"), colour)


def _lines(found: list[Piece], font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[list[Piece]]:
    lines: list[list[Piece]] = [[]]
    left = 0.0
    for piece in found:
        wide = font.getlength(piece.text) + 1
        if lines[-1] and left + wide > WIDTH - 2 * MARGIN:
            lines.append([])
            left = 0.0
        lines[-1].append(piece)
        left += wide
        if piece.breaks:
            lines.append([])
            left = 0.0
    if len(lines) > _LONGEST:
        return [*lines[:_LONGEST], [Piece(f"… {len(lines) - _LONGEST} more lines", _PLAIN)]]
    return lines


def _fitted(image: Image.Image) -> Image.Image:
    """The image as it is, or as wide as the page."""
    if image.width <= WIDTH - 2 * MARGIN:
        return image
    return image.resize((WIDTH - 2 * MARGIN, max(1, round(image.height * (WIDTH - 2 * MARGIN) / image.width))))


def _flow(sizes: list[tuple[int, int]], *, gap: int) -> tuple[list[tuple[int, int]], int]:
    """Places of boxes in rows from left to right, and the height of them all."""
    places: list[tuple[int, int]] = []
    left, top, tallest = MARGIN, 0, 0
    for width, height in sizes:
        if left > MARGIN and left + width > WIDTH - MARGIN:
            left, top, tallest = MARGIN, top + tallest + gap, 0
        places.append((left, top))
        left, tallest = left + width + gap, max(tallest, height)
    return places, top + tallest


def _legend() -> Image.Image:
    page = Image.new("RGB", (WIDTH, 2 * LINE), "white")
    draw, font = ImageDraw.Draw(page), _font(SIZE)
    left = float(MARGIN)
    for text, colour in (
        ("trained on", _TRAINED),
        ("control token", _CONTROL),
        ("image", _IMAGE),
        ("read only", _PLAIN),
    ):
        wide = font.getlength(text) + 12
        draw.rectangle([left, 12, left + wide, 12 + LINE - 4], fill=colour, outline="#999999")
        draw.text((left + 6, 12), text, fill="black", font=font)
        left += wide + 10
    return page


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font with as many scripts as the machine offers; Pillow's own, which has Latin only, where it has none."""
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
