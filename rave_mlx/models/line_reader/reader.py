"""The line reader of a finder: loaded from its folder, given pictures of lines, gives their text."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rave_mlx.models.finder.stored_weights import read_settings, read_weights
from rave_mlx.models.line_reader.config import SETTINGS, STEP, WEIGHTS, LineReaderConfig
from rave_mlx.models.line_reader.network import LineReaderNetwork

_WIDTHS = 2 * STEP
"""Pictures are widened to a multiple of this, so that many have the same width."""
_GREY = 127.5
"""Half of white: 0 for the network, which has learned from pictures that were filled up with it."""
_BATCH_PIXELS = 16 * 320
"""Width of the pictures that are read at a time, together."""


@dataclass(frozen=True)
class LineText:
    """What is read in the picture of a line.

    Attributes:
        words: from the left.
        certainties: of each word the least probability of its characters, and of the space or end behind it.
    """

    words: tuple[str, ...]
    certainties: tuple[float, ...]

    @property
    def text(self) -> str:
        """The words with spaces between."""
        return " ".join(self.words)


class LineReader:
    """Reads pictures of printed lines, each by itself: what one holds does not depend on the others.

    Args:
        config: its shape.
        network: with its weights.
    """

    def __init__(self, config: LineReaderConfig, network: LineReaderNetwork):
        self.config, self.network = config, network

    def read(self, pictures: Sequence[Image.Image]) -> list[LineText]:
        """The text of each line.

        Args:
            pictures: dark print on light paper or light on dark, upright, of `config.height` pixels.
        """
        pixels = [_pixels(picture, self.config.height) for picture in pictures]
        out: dict[int, LineText] = {}
        for numbers in _batches([each.shape[1] for each in pixels]):
            scores = self.network(mx.array(np.stack([pixels[number] for number in numbers])))
            probabilities = np.array(mx.softmax(scores, axis=-1), np.float32)
            for number, each in zip(numbers, probabilities, strict=True):
                out[number] = read_classes(each, self.config.characters)
        return [out[number] for number in range(len(pictures))]


def read_classes(probabilities: NDArray[np.float32], characters: str) -> LineText:
    """The likeliest text of a line: of each step the likeliest class, repetitions and none left out (CTC).

    Args:
        probabilities: (steps, 1 + characters); class 0 is none.
        characters: in the order of the classes.
    """
    classes, best = probabilities.argmax(axis=1), probabilities.max(axis=1)
    words: list[str] = []
    certainties: list[float] = []
    word, certainty, before = "", 1.0, 0
    for number, probability in zip(classes.tolist(), best.tolist(), strict=True):
        character = characters[number - 1] if number and number != before else ""
        if number:
            certainty = min(certainty, probability) if number != before else certainty
        before = number
        if character == " ":
            if word:
                words.append(word)
                certainties.append(certainty)
            word, certainty = "", 1.0
        word += character.strip()
    if word:
        words.append(word)
        certainties.append(certainty)
    return LineText(tuple(words), tuple(certainties))


def _pixels(picture: Image.Image, height: int) -> NDArray[np.float32]:
    """(height, W, 3) from -1 for black to 1 for white; W a multiple of `_WIDTHS`, filled up with grey."""
    colours = np.asarray(picture.convert("RGB"), np.float32)
    if colours.shape[0] != height:
        raise ValueError(f"a line of {colours.shape[0]} pixels; {height} are read")
    wide = -(-colours.shape[1] // _WIDTHS) * _WIDTHS
    whole = np.full((height, wide, 3), _GREY, np.float32)
    whole[:, : colours.shape[1]] = colours
    return np.asarray(whole / _GREY - 1)


def _batches(widths: Sequence[int]) -> Iterator[list[int]]:
    """The numbers of pictures of the same width, as many together as are read at a time."""
    same: dict[int, list[int]] = {}
    for number, width in enumerate(widths):
        same.setdefault(width, []).append(number)
    for width, numbers in same.items():
        many = max(1, _BATCH_PIXELS // width)
        for start in range(0, len(numbers), many):
            yield numbers[start : start + many]


@functools.lru_cache(maxsize=2)
def load_line_reader(folder: Path) -> LineReader | None:
    """The line reader in a finder's folder; None where there is none. Kept, since it is asked again and again.

    Raises:
        ConfigError, ModelError: where one of the two files is missing or broken, or does not fit the other.
    """
    file = folder / SETTINGS
    if not file.exists() and not (folder / WEIGHTS).exists():
        return None
    config = LineReaderConfig.from_dict(read_settings(file), str(file))
    network = LineReaderNetwork(config)
    network.load_weights(list(read_weights(folder / WEIGHTS, network).items()))
    mx.eval(network.parameters())
    return LineReader(config, network)
