"""Where a page has ink: pixels that differ from the paper around them, without rules and frames.

Text may be dark on light or light on a dark band; paper may be shaded. Nothing here knows letters.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Ink = NDArray[np.bool_]
"""(height, width) marks of the pixels that are ink."""

_BLOCK = 16
"""Side in pixels of the squares whose middle grey is taken as the paper there."""
_FAINTEST, _STRONGEST = 22.0, 90.0
"""Bounds of the difference in grey levels from which on a pixel is ink."""
_STEEPEST = 3.0
"""Largest skew in degrees that is looked for."""
_SKEW_PIXELS = 400_000
"""Pixels of the reduced page in which the skew is looked for."""


def find_ink(image: Image.Image) -> Ink:
    """The pixels of a page that differ from the paper around them; a page without contrast has none.

    Args:
        image: of any mode.
    """
    grey = np.asarray(image.convert("L"), np.float32)
    paper = _paper(grey)
    difference = np.abs(grey - paper)
    return without_rules(difference > _threshold(difference))


def _paper(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """(height, width) grey of the paper: the median of each square, evened out over its neighbours."""
    height, width = grey.shape
    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    padded = np.pad(grey, ((0, rows * _BLOCK - height), (0, columns * _BLOCK - width)), mode="edge")
    squares = padded.reshape(rows, _BLOCK, columns, _BLOCK).transpose(0, 2, 1, 3).reshape(rows, columns, -1)
    middle = np.median(squares, axis=2)
    around = np.pad(middle, 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3)).reshape(rows, columns, -1)
    # A square that a bold letter fills takes its grey from the squares around it.
    smooth = np.median(windows, axis=2).astype(np.float32)
    picture = Image.fromarray(smooth).resize((columns * _BLOCK, rows * _BLOCK), Image.Resampling.NEAREST)
    return np.asarray(picture, np.float32)[:height, :width]


def _threshold(difference: NDArray[np.float32]) -> float:
    """The difference that parts ink from paper best (Otsu 1979), within bounds."""
    counts = np.bincount(np.clip(difference, 0, 255).astype(np.uint8).ravel(), minlength=256).astype(np.float64)
    levels = np.arange(256)
    below, total = np.cumsum(counts), counts.sum()
    mass, whole = np.cumsum(counts * levels), (counts * levels).sum()
    above = total - below
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.where((below > 0) & (above > 0), (whole * below / total - mass) ** 2 / (below * above), 0)
    return float(np.clip(np.argmax(spread), _FAINTEST, _STRONGEST))


def without_rules(ink: Ink) -> Ink:
    """The ink without what is too long for a letter: rules, frames, the edges of bands and of the paper."""
    letter = letter_height(ink)
    thin, thick = max(3, round(0.2 * letter)), round(1.3 * letter)
    across = _rules(ink, max(32, round(3.0 * letter)), thin) | _rules(ink, max(48, round(6.0 * letter)), thick)
    down = _rules(ink.T, max(18, round(1.9 * letter)), thin) | _rules(ink.T, max(40, round(4.0 * letter)), thick)
    left: Ink = ink & ~across & ~down.T
    return left


def letter_height(ink: Ink) -> float:
    """The usual height in pixels of what stands in one column of pixels without a gap; a guess of a letter's size."""
    edges = np.diff(np.pad(ink, ((1, 1), (0, 0))).astype(np.int8), axis=0)
    first, last = np.nonzero(edges.T == 1)[1], np.nonzero(edges.T == -1)[1]
    heights = last - first
    heights = heights[(heights >= 5) & (heights <= 200)]
    return float(np.percentile(heights, 75)) if len(heights) else 10.0


def _rules(ink: Ink, length: int, thickness: int) -> Ink:
    """The pixels of horizontal rules: at least `length` long and at most `thickness` thick."""
    # A rule that leans or is noisy wanders by a pixel.
    wide = ink.copy()
    wide[1:] |= ink[:-1]
    wide[:-1] |= ink[1:]
    runs = _long_runs(wide, length)
    thick = _long_runs(runs.T, thickness + 3).T
    return runs & ~thick


def _long_runs(ink: Ink, length: int) -> Ink:
    """The pixels that lie in a horizontal run of at least `length` pixels of ink."""
    if ink.shape[1] < length:
        return np.zeros_like(ink)
    sums = np.cumsum(np.pad(ink, ((0, 0), (1, 0))), axis=1, dtype=np.int32)
    starts = sums[:, length:] - sums[:, :-length] == length
    marks = np.zeros((ink.shape[0], ink.shape[1] + 1), np.int32)
    marks[:, : starts.shape[1]] += starts
    marks[:, length : length + starts.shape[1]] -= starts
    return np.cumsum(marks, axis=1)[:, :-1] > 0


def skew(ink: Ink) -> float:
    """How far the lines of text lean, in degrees, positive where they rise to the right; 0 where none can be told."""
    height, width = ink.shape
    scale = min(1.0, math.sqrt(_SKEW_PIXELS / max(1, height * width)))
    small = Image.fromarray(ink.astype(np.uint8) * 255).resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX
    )
    weights = np.asarray(small, np.float32) / 255
    rows, columns = np.nonzero(weights > 0.25)
    if len(rows) < 50:
        return 0.0
    away = columns - weights.shape[1] / 2

    def sharpness(degrees: float) -> float:
        leveled = np.round(rows + away * math.tan(math.radians(degrees))).astype(np.int64)
        profile = np.bincount(leveled - leveled.min())
        return float(np.square(profile).sum())

    coarse = max(np.arange(-_STEEPEST, _STEEPEST + 0.01, 0.5), key=lambda a: (sharpness(a), -abs(a)))
    best = max(coarse + np.arange(-0.4, 0.41, 0.1), key=lambda a: (sharpness(a), -abs(a)))
    return float(best) if sharpness(best) > 1.02 * sharpness(0.0) else 0.0
