"""The finder's encoder: BERT whose attention knows which words stand in a row and which below each other.

BERT (arXiv 1810.04805), with a bias on attention scores for the distance of two words, as T5 has it (arXiv 1910.10683)
and LayoutLMv2 in two dimensions (arXiv 2012.14740): of the middles of their rows, of the left and of the right sides of
their cells. It is zero for the words of the question.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from rave_mlx.models.finder.config import KINDS, FinderConfig

ROW_EDGES = (-12.0, -6.0, -3.5, -2.2, -1.5, -0.4, 0.4, 1.5, 2.2, 3.5, 6.0, 12.0)
"""Bounds between the classes of a distance of rows, in word heights."""
SIDE_EDGES = (-30.0, -15.0, -8.0, -4.0, -1.8, -0.5, 0.5, 1.8, 4.0, 8.0, 15.0, 30.0)
"""Bounds between the classes of a distance of two left or two right sides, in word heights."""
SIZE_EDGES = (0.7, 0.9, 1.12, 1.35, 1.7, 2.3)
"""Bounds between the classes of a word's height, in usual word heights."""
STARTS = 4
"""Not of the page; in the middle of a cell; first of a cell; first of a row."""


@dataclass(frozen=True, eq=False)
class FinderInput:
    """Tokens of a question and of (a window of) a page: [CLS] question [SEP] page [SEP].

    Attributes:
        ids: (L,) word pieces.
        places: (L, 3) row, left and right side in word heights; zero for tokens that are not of the page.
        sizes: (L,) class of the height from 1; 0 for tokens that are not of the page.
        starts: (L,) class of `STARTS`.
        page_start: the first token of the page.
    """

    ids: np.ndarray
    places: np.ndarray
    sizes: np.ndarray
    starts: np.ndarray
    page_start: int


@dataclass(frozen=True, eq=False)
class FinderOutput:
    """Scores of one input: (L,) of where an answer begins and ends, (kinds,) of what is asked for."""

    first: mx.array
    last: mx.array
    kinds: mx.array


class _Layer(nn.Module):
    """One encoder block, post-norm."""

    def __init__(self, config: FinderConfig):
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, config.norm_eps)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, width)
        self.norm = nn.LayerNorm(width, config.norm_eps)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        """x: (1, L, width); bias: (1, heads, L, L) on the scores."""
        _, length, width = x.shape
        size = width // self.heads
        q, k, v = self.qkv(x).reshape(length, 3, self.heads, size).transpose(1, 2, 0, 3)[:, None]
        seen = mx.fast.scaled_dot_product_attention(q, k, v, scale=size**-0.5, mask=bias)
        x = self.attention_norm(x + self.out(seen.transpose(0, 2, 1, 3).reshape(1, length, width)))
        out: mx.array = self.norm(x + self.down(nn.gelu(self.up(x))))
        return out


class FinderNetwork(nn.Module):
    """The encoder and its heads.

    Args:
        config: its shape.
    """

    def __init__(self, config: FinderConfig):
        super().__init__()
        width = config.hidden_size
        self.words = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Embedding(config.max_positions, width)
        self.parts = nn.Embedding(2, width)
        self.sizes = nn.Embedding(len(SIZE_EDGES) + 2, width)
        self.starts = nn.Embedding(STARTS, width)
        self.norm = nn.LayerNorm(width, config.norm_eps)
        self.near = mx.zeros((len(ROW_EDGES) + 2 * len(SIDE_EDGES) + 3, config.num_heads))
        self.layers = [_Layer(config) for _ in range(config.num_layers)]
        self.span = nn.Linear(width, 2)
        self.kind = nn.Linear(width, len(KINDS))

    def __call__(self, given: FinderInput) -> FinderOutput:
        """Scores of one input."""
        length = len(given.ids)
        of_page = mx.array((np.arange(length) >= given.page_start).astype(np.int32))
        x = self.words(mx.array(given.ids)) + self.positions.weight[:length] + self.parts(of_page)
        x = x + self.sizes(mx.array(given.sizes)) + self.starts(mx.array(given.starts))
        x, bias = self.norm(x)[None], self._bias(given)[None]
        for layer in self.layers:
            x = layer(x, bias)
        scores = self.span(x[0])
        return FinderOutput(scores[:, 0], scores[:, 1], self.kind(x[0, 0]))

    def _bias(self, given: FinderInput) -> mx.array:
        """(heads, L, L): what the distance of two words of the page adds to their scores."""
        classes, first = [], 0
        for axis, edges in enumerate((ROW_EDGES, SIDE_EDGES, SIDE_EDGES)):
            place = given.places[:, axis]
            classes.append(np.searchsorted(np.asarray(edges, np.float32), place[None, :] - place[:, None]) + first)
            first += len(edges) + 1
        of_page = given.starts > 0
        both = mx.array((of_page[:, None] & of_page[None, :]).astype(np.float32))
        rows, left, right = (self.near[mx.array(found)] for found in classes)
        return ((rows + left + right) * both[..., None]).transpose(2, 0, 1)
