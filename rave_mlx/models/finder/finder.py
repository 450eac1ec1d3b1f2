"""The finder of a model: loaded from its folder, asked with a question and the words of a page."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from rave_mlx.errors import ModelError
from rave_mlx.inputs.lines.page_words import PageWord
from rave_mlx.models.finder.answer_spans import Span, SpanScores, over_windows, read_spans
from rave_mlx.models.finder.config import KINDS, SETTINGS, TOKENIZER, WEIGHTS, FinderConfig
from rave_mlx.models.finder.network import FinderNetwork
from rave_mlx.models.finder.stored_weights import packed_weights, read_settings, read_weights
from rave_mlx.models.finder.word_pieces import NEXT_ROW, Piece, WordPieces

_OVERLAP = 60
"""Word pieces of a page that two windows share, where windows are twice as long."""


@dataclass(frozen=True)
class Found:
    """What a finder makes of a question.

    Attributes:
        kinds: probability of each of `KINDS`.
        spans: words that may be the answer, the likeliest first; their probabilities and `absent` sum to about 1.
        absent: probability that the answer is not on the page, where the question is for something on a page.
    """

    kinds: Mapping[str, float]
    spans: tuple[Span, ...]
    absent: float


class Finder:
    """Finds the words of a page that answer a question.

    Args:
        config: its shape.
        network: with its weights.
        pieces: its tokenizer.
    """

    def __init__(self, config: FinderConfig, network: FinderNetwork, pieces: WordPieces):
        self.config, self.network, self.pieces = config, network, pieces

    def find(self, question: str, words: Sequence[PageWord]) -> Found:
        """The words that answer a question.

        Args:
            question: in the user's words.
            words: of a level page, in any order. A long page is read in windows.
        """
        asked, page = self.pieces.question(question), self.pieces.page(words)
        spans, kinds = [], []
        for window in self._windows(page, self.config.max_positions - len(asked) - 3):
            given = self.pieces.join(asked, window)
            scores = self.network(given)
            mx.eval(scores.first, scores.last, scores.kinds)
            heat = self.config.temperature
            first, last = (np.array(each, np.float32) / heat for each in (scores.first, scores.last))
            spans.append(read_spans(first, last, given.page_start, window, words))
            kinds.append(_softmax(np.array(scores.kinds, np.float32)))
        found = over_windows(spans)
        return Found(_over_windows(kinds, spans), found.spans, found.absent)

    @staticmethod
    def _windows(page: list[Piece], most: int) -> list[list[Piece]]:
        """The pieces of a page in windows that begin with a row and are as long as can be read."""
        windows, start = [], 0
        while True:
            windows.append(page[start : start + most])
            if start + most >= len(page):
                return windows
            low, high = start + most // 2, start + most - min(_OVERLAP, most // 2)
            rows = [i for i in range(low, high) if page[i].starts == NEXT_ROW]
            start = rows[-1] if rows else high


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    return np.asarray(powers / powers.sum())


def _over_windows(kinds: Sequence[np.ndarray], spans: Sequence[SpanScores]) -> dict[str, float]:
    """The kinds of a question over the windows of a page: those of the window that holds most of the answer."""
    best = min(range(len(spans)), key=lambda i: spans[i].absent)
    return dict(zip(KINDS, map(float, kinds[best]), strict=True))


@functools.lru_cache(maxsize=2)
def load_finder(folder: Path) -> Finder:
    """The finder in a folder; kept, since a conversation asks for it again and again.

    Raises:
        ConfigError, ModelError: where a file is missing, or does not fit the others.
    """
    file = folder / SETTINGS
    config = FinderConfig.from_dict(read_settings(file), str(file))
    pieces = WordPieces(folder / TOKENIZER)
    if pieces.size != config.vocab_size:
        raise ModelError(f"{folder}: the tokenizer has {pieces.size} pieces, the configuration {config.vocab_size}")
    network = FinderNetwork(config)
    network.load_weights(list(read_weights(folder / WEIGHTS, network).items()))
    mx.eval(network.parameters())
    return Finder(config, network, pieces)


def write_finder(
    folder: Path, config: FinderConfig, weights: Mapping[str, mx.array], tokenizer: Path, bits: Mapping[str, int]
) -> None:
    """Write a finder's folder.

    Args:
        folder: which is made.
        config: of the finder.
        weights: by name, as of `FinderNetwork`.
        tokenizer: file to copy.
        bits: of the weights that are packed, by name; the others are stored in float16.
    """
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / WEIGHTS), packed_weights(weights, bits))
    (folder / SETTINGS).write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")
    (folder / TOKENIZER).write_bytes(tokenizer.read_bytes())
