"""Pages for training the decoder alone: seen once by a tower that stays as it is, asked several times.

The tower takes most of a step where a processor has no bfloat16. What it makes of a page is kept, so that each page is
asked `VISITS` times, in other words each time: a page that was not seen before costs a hundred times a new question.
"""

from __future__ import annotations

import multiprocessing as mp
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rave_mlx.synthetic import PageConfig
from recipes.builtin.data import Batch, Mixture, Page, collate, meaning_page_for, page_for
from recipes.builtin.device import put
from recipes.builtin.losses import see
from recipes.builtin.model import Nano

VISITS = 5
"""How often a page is asked."""
ROUNDS = 4
"""Rounds of questions that a page has, of which a visit takes what fits."""
POOL = 400
"""Pages at hand once the training runs; it begins with a quarter of them."""
TEXT = 640
"""Text tokens of a visit at most."""
OF_TEXT = ("ids", "segment", "place", "label", "weight", "kind", "target")
"""Fields of a batch that have a column a text token."""
SIZES = ((420, 0.35), (620, 0.4), (1024, 0.25))
"""Most cells of a page, and how often that is the bound."""


@dataclass(frozen=True, eq=False)
class SeenPage:
    """A page without its image: questions and glyphs, canvas (height, width), visual tokens (N, width)."""

    page: Page
    canvas: tuple[int, int]
    tokens: NDArray[np.float16]


def look_at(model: Nano, page: Page, canvas: tuple[int, int]) -> SeenPage:
    """Let the tower see a page.

    Args:
        model: whose tower is used.
        page: drawn in grey, with its glyphs.
        canvas: height and width in pixels, multiples of 16.
    """
    shown = page.image if page.image.size == canvas[::-1] else page.image.resize(canvas[::-1], Image.Resampling.BICUBIC)
    with torch.no_grad():
        tokens = see(model, put(np.array(shown))[None])[0].float().numpy().astype(np.float16)
    return SeenPage(replace(page, image=Image.new("1", page.image.size)), canvas, tokens)


def _produce(queue: Any, model: Nano, seed: int, mixture: Mixture) -> None:
    """Put seen pages into a queue without end; runs in a process of its own."""
    torch.set_num_threads(1)
    rng = Random(seed)
    bounds, shares = zip(*SIZES, strict=True)
    while True:
        most = rng.choices(bounds, shares)[0]
        page: Page
        if rng.random() < mixture.meaning:
            page, canvas = meaning_page_for(rng, most, mixture.quote, ROUNDS)
        else:
            page, canvas = page_for(rng, most, PageConfig())
        queue.put(look_at(model, page, canvas))


class Replay:
    """Endless visits: visual tokens (1, N, width) of a page, and a batch of one with some of its questions.

    Args:
        model: whose tower is used; a copy goes to the process that draws.
        seed: of pages and questions.
        mixture: what pages are drawn.
    """

    def __init__(self, model: Nano, seed: int, mixture: Mixture) -> None:
        context = mp.get_context("fork")
        self.rng = Random(seed)
        self.queue = context.Queue(16)
        self.process = context.Process(target=_produce, args=(self.queue, model, seed + 1, mixture), daemon=True)
        self.process.start()
        self.pool: list[tuple[SeenPage, int]] = []
        self.drawn = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Batch]]:
        while True:
            while len(self.pool) < POOL and (len(self.pool) < POOL // 4 or not self.queue.empty()):
                self.pool.append((self.queue.get(), VISITS))
                self.drawn += 1
            at = self.rng.randrange(len(self.pool))
            seen, left = self.pool[at]
            if left > 1:
                self.pool[at] = (seen, left - 1)
            else:
                self.pool[at] = self.pool[-1]
                self.pool.pop()
            yield self._visit(seen)

    def _visit(self, seen: SeenPage) -> tuple[Tensor, Batch]:
        """Some questions of a page; the text that none took is cut off."""
        batch = collate(self.rng, [seen.page], *seen.canvas, length=TEXT)
        used = max(32, int((batch.segment[0] >= 0).sum()))
        short = {name: getattr(batch, name)[:, :used] for name in OF_TEXT}
        return put(seen.tokens.astype(np.float32))[None], replace(batch, **short)
