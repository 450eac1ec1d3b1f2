"""The loss curve of a run as a PNG, from its log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_SIZE = (960, 540)
_LEFT, _TOP, _RIGHT, _BOTTOM = 80, 40, 930, 480
_TRAIN, _SMOOTH, _VALID, _INK, _GRID = "#c6d8f0", "#1f5fb4", "#d1602a", "#333333", "#e5e5e5"
_LINES = 5

Points = Sequence[tuple[float, float]]


def draw_curve(entries: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw training loss (each update, and smoothed) and validation loss over the updates; nothing without updates."""
    train = [(float(e["step"]), float(e["loss"])) for e in entries if "loss" in e]
    valid = [(float(e["step"]), float(e["valid_loss"])) for e in entries if "valid_loss" in e]
    if not train:
        return
    smooth = smoothed(train)
    image = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(image)
    last = max(step for step, _ in (*train, *valid))
    # A few early losses are far above the rest and would flatten it; the axis follows the smoothed curve.
    top = nice(max(y for _, y in (*smooth, *valid)))
    _axes(draw, last, top)
    for points, colour, width in ((train, _TRAIN, 1), (smooth, _SMOOTH, 3), (valid, _VALID, 3)):
        _line(draw, [_place(x, min(y, top), last, top) for x, y in points], colour, width)
    for x, y in valid:
        cx, cy = _place(x, min(y, top), last, top)
        draw.ellipse((cx - 4, cy - 4, cx + 4, cy + 4), fill=_VALID)
    font = ImageFont.load_default(16)
    draw.text((_LEFT, 12), "training loss", fill=_SMOOTH, font=font)
    if valid:
        draw.text((_LEFT + 130, 12), f"validation loss (last {valid[-1][1]:.3f})", fill=_VALID, font=font)
    part = file.with_name(f".{file.name}.part")
    image.save(part, "PNG")
    part.replace(file)


def smoothed(points: Points, share: float = 0.05) -> list[tuple[float, float]]:
    """Each value averaged with those before it, over `share` of all points."""
    width = max(1, round(share * len(points)))
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    return [(x, (sums[i + 1] - sums[max(0, i + 1 - width)]) / min(i + 1, width)) for i, (x, _) in enumerate(points)]


def nice(value: float) -> float:
    """The next number from 1, 2, 2.5, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * m for m in (1.0, 2.0, 2.5, 5.0, 10.0) if power * m >= value * (1 - 1e-9))


def _place(x: float, y: float, last: float, top: float) -> tuple[float, float]:
    return _LEFT + (_RIGHT - _LEFT) * x / last, _BOTTOM - (_BOTTOM - _TOP) * y / top


def _axes(draw: ImageDraw.ImageDraw, last: float, top: float) -> None:
    font = ImageFont.load_default(14)
    for i in range(_LINES + 1):
        y = _BOTTOM - (_BOTTOM - _TOP) * i / _LINES
        draw.line((_LEFT, y, _RIGHT, y), fill=_GRID)
        draw.text((_LEFT - 10, y), f"{top * i / _LINES:.3g}", fill=_INK, font=font, anchor="rm")
        x = _LEFT + (_RIGHT - _LEFT) * i / _LINES
        draw.text((x, _BOTTOM + 16), f"{round(last * i / _LINES)}", fill=_INK, font=font, anchor="mm")
    draw.text(((_LEFT + _RIGHT) / 2, _BOTTOM + 40), "updates", fill=_INK, font=font, anchor="mm")


def _line(draw: ImageDraw.ImageDraw, points: Points, colour: str, width: int) -> None:
    if len(points) > 1:
        draw.line([*points], fill=colour, width=width, joint="curve")
