"""`AttentionMap`: what a model looked at while it wrote an answer, and the pictures of it as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rave_mlx.errors import UsageError
from rave_mlx.inputs.images.token_boxes import TokenBoxes

KINDS = ("image", "text", "sinks")
"""What a row's attention is divided among. A visual token that is a sink counts as a sink."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AnswerToken:
    """One token of the answer.

    Attributes:
        id: its id.
        text: the characters that it completed.
        stop: whether it ended the answer.
        probability: what the model gave to it; NaN where that was not kept.
    """

    id: int
    text: str
    stop: bool = False
    probability: float = math.nan


@dataclass(frozen=True, eq=False)
class SeenImage:
    """An image of the prompt.

    Attributes:
        picture: the upright image.
        places: where each of its visual tokens comes from, in pixels of `picture`.
    """

    picture: Image.Image = field(repr=False)
    places: TokenBoxes = field(repr=False)


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """T answer tokens, N layers, H query heads, V visual tokens (of all images, in reading order).

    Row t is the attention of the position whose logits chose token t: the prompt's last for the first token.

    Attributes:
        question, answer: texts.
        attention: name of the attention policy ("none" for the model without its gates).
        tokens: the answer's, the stop token included.
        images: what the visual tokens show.
        image: (V,) index into `images`.
        weights: (T, N, H, V) float16, after policies; rows do not sum to 1, the rest lies on text.
        mass: (T, N, H, 3) float32 for KINDS; sums to 1.
        sinks: (N,) how many keys counted as sinks when the answer began.
        shift: (T, N, H) float32, what the pair gate did to the row's odds of image against text, as a natural
            logarithm; NaN without a gate.
        moved: (T, N, H) float32, what it did within the image: the share of the row's image mass that lies on other
            visual tokens than without it; NaN without a gate.
        decoder_layers: which layers of the decoder the N are, where others have linear attention, which has no weights
            to look at; empty where they are all.
    """

    question: str
    answer: str
    attention: str
    tokens: tuple[AnswerToken, ...]
    images: tuple[SeenImage, ...]
    image: NDArray[np.int32]
    weights: NDArray[np.float16]
    mass: NDArray[np.float32]
    sinks: NDArray[np.int64]
    shift: NDArray[np.float32]
    moved: NDArray[np.float32]
    decoder_layers: tuple[int, ...] = ()

    @property
    def num_layers(self) -> int:
        """N."""
        return int(self.weights.shape[1])

    @property
    def layer_note(self) -> str:
        """Which layers of the decoder the N are, in words; empty where they are all."""
        return f"layers with attention, which are {name_numbers(self.decoder_layers)}" if self.decoder_layers else ""

    @property
    def num_heads(self) -> int:
        """H."""
        return int(self.weights.shape[2])

    @property
    def text_tokens(self) -> NDArray[np.int64]:
        """Indices of the tokens that are text: all but the stop token, or that too when there is nothing else."""
        found = np.flatnonzero([not token.stop for token in self.tokens])
        return found if found.size else np.arange(len(self.tokens))

    def over(
        self, token: int | None = None, *, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None
    ) -> Floats:
        """(V,) attention of one answer token, or the mean over the answer; mean over layers and heads.

        Args:
            token: index of an answer token; None: the mean over `text_tokens`.
            layers: indices; None: `default_layers`.
            heads: indices; None: all.

        Raises:
            UsageError: for a layer, head or token that is not there.
        """
        chosen = list(default_layers(self.num_layers) if layers is None else layers)
        of_heads = list(range(self.num_heads) if heads is None else heads)
        _within("layers", chosen, self.num_layers)
        _within("heads", of_heads, self.num_heads)
        rows = self.text_tokens if token is None else np.array([token])
        _within("tokens", rows.tolist(), len(self.tokens))
        # One token at a time: all of them together, in float64, can be gigabytes.
        each = [self.weights[t][chosen][:, of_heads].mean(axis=(0, 1), dtype=np.float64) for t in rows]
        mean: Floats = np.mean(each, axis=0)
        return mean

    def peak_token(self, values: Floats) -> int:
        """Index of the visual token with the densest attention (values over area), among those with a place.

        Raises:
            UsageError: where no visual token has a place.
        """
        boxes = np.concatenate([seen.places.boxes for seen in self.images])
        density = values / ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        if not np.isfinite(density).any():
            raise UsageError("no visual token of this prompt shows a part of its image")
        return int(np.nanargmax(density))

    def peak(self, values: Floats) -> tuple[int, tuple[float, float]]:
        """(image, (x, y)): the middle of the visual token of `peak_token`, in pixels of the image."""
        best = self.peak_token(values)
        left, top, right, bottom = np.concatenate([seen.places.boxes for seen in self.images])[best]
        return int(self.image[best]), (float(left + right) / 2, float(top + bottom) / 2)

    def heat(self, values: Floats, image: int, size: tuple[int, int]) -> Floats:
        """A map of one image, to be drawn: every token's attention is spread evenly over its box.

        The unit is attention per `places.cell`, so that a token of the finest grid keeps its value.

        Args:
            values: (V,) attention, as of `over`.
            image: index into `images`.
            size: width and height of the result in pixels.

        Returns:
            (height, width).
        """
        seen = self.images[image]
        own = values[self.image == image]
        return spread(own, seen.places, seen.picture.size, size)


def spread(values: Floats, places: TokenBoxes, page: tuple[int, int], size: tuple[int, int]) -> Floats:
    """Spread the values of visual tokens evenly over their boxes on a page.

    Args:
        values: (n,) of the tokens.
        places: where they are; tokens without a place are left out.
        page: width and height of the page, in the pixels that `places` counts in.
        size: width and height of the result in pixels.

    Returns:
        (height, width), per `places.cell`.
    """
    width, height = size
    located = np.isfinite(places.boxes).all(axis=1)
    boxes, value = places.boxes[located], values[located]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    density = value * (places.cell[0] * places.cell[1]) / area
    edges = np.rint(boxes * np.tile([width / page[0], height / page[1]], 2)).astype(np.int64)
    # Four corners a box in a table of differences; its sums along both axes are the map.
    corners = np.zeros((height + 1, width + 1))
    left, top, right, bottom = edges.T
    for x, y, sign in ((left, top, 1), (right, top, -1), (left, bottom, -1), (right, bottom, 1)):
        np.add.at(corners, (y, x), sign * density)
    filled: Floats = corners.cumsum(axis=0).cumsum(axis=1)[:height, :width]
    # What rounding leaves where no token lies must not pass for attention.
    return filled.round(12)


def default_layers(count: int) -> range:
    """The layers that are shown when none are asked for: all but the first third.

    By the pointing score of the built-in model (docs/look.md) no narrower stretch points better with and without its
    gates; its first layer hardly looks at the page.
    """
    return range(count // 3, count)


def parse_numbers(text: str, what: str) -> list[int]:
    """Numbers from a list of numbers and ranges: "3", "0-2", "1,4-6".

    Raises:
        UsageError: for anything else.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not first.isdecimal() or not last.isdecimal() or int(last) < int(first):
            raise UsageError(f"{what} {text!r}: write numbers and ranges, like 3 or 0-2 or 1,4-6")
        found += range(int(first), int(last) + 1)
    return sorted(set(found))


def name_numbers(numbers: Sequence[int]) -> str:
    """The opposite, to be read: "3", "0–2", "1, 4–6"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}" for part in parts)


def _within(what: str, chosen: Sequence[int], count: int) -> None:
    """Refuse indices that are not there, and none at all."""
    wrong = [i for i in chosen if not 0 <= i < count]
    if wrong or not chosen:
        asked = f"{wrong[0]} was asked for" if wrong else "none were asked for"
        raise UsageError(f"{what}: {asked}, there are {count}, counted from 0 to {count - 1}")
