"""Answers that are written together: one pass of the decoder for all of them, one or more tokens each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from rave_mlx import backend
from rave_mlx.errors import RaveError
from rave_mlx.generation.answer_row import AnswerRow, greedy
from rave_mlx.generation.batch_cache import BatchCache, CachedRow
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.lmm import LMM
from rave_mlx.models.rope import Consecutive

_HOLES = 0.5
"""Share of real slots below which a batch is written anew without holes."""


@dataclass(frozen=True, eq=False)
class _Chosen:
    """Tokens (B,) and their probabilities (B,) that have been asked for and may not be computed yet.

    Attributes:
        tokens, chances: both.
        errors: of rows, by index, whose token could not be chosen.
    """

    tokens: mx.array
    chances: mx.array
    errors: Mapping[int, RaveError]


class Batch:
    """Rows with one cache. Rotary frequencies have to be the same for all of their positions.

    A row that has ended stays in the cache, and is computed along, until enough others have ended or another one comes:
    taking it out copies the whole cache.

    Args:
        lmm: the model.
    """

    def __init__(self, lmm: LMM):
        self._lmm = lmm
        self._rows: list[AnswerRow] = []
        self._joining: list[tuple[AnswerRow, CachedRow]] = []
        self._cache: BatchCache | None = None
        self._ahead: _Chosen | None = None

    @property
    def rows(self) -> list[AnswerRow]:
        """The answers that are being written."""
        return [row for row in [*self._rows, *(row for row, _ in self._joining)] if row.ending is None]

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return 0 if self._cache is None else self._cache.nbytes

    def join(self, row: AnswerRow, cache: Cache) -> None:
        """A row whose prompt is read goes on here.

        Args:
            row: has its first token.
            cache: holds the prompt; it is left as it is.
        """
        self._joining.append((row, CachedRow.whole(cache, row.job.prompt.token_map.visual)))

    def advance(self) -> None:
        """Write on: a token of every row, or more where some were guessed; the first time it is only asked for."""
        if self._ahead is not None and not self._joining and not self._is_sparse():
            # The next pass is queued before the tokens of this one are looked at.
            chosen, self._ahead = self._ahead, None
            if not chosen.errors and any(row.remaining > 1 for row in self.rows):
                self._ahead = self._queue(chosen.tokens)
            self._take(chosen)
            return
        if self._ahead is not None:
            self._take(self._ahead)
            self._ahead = None
        self._arrange()
        if self._cache is None:
            return
        if any(row.needs_host for row in self.rows):
            # Products over a few tokens are too small to share among BLAS threads, which would wait for each other.
            with backend.row_parallel():
                self._verify(self._cache)
        else:
            self._ahead = self._queue(mx.array([row.queue[0] for row in self._rows]))

    def _is_sparse(self) -> bool:
        """Whether the cache holds much that nobody needs."""
        over = sum(row.ending is not None for row in self._rows)
        return over == len(self._rows) or 4 * over > len(self._rows) or (
            self._cache is not None and self._cache.share_real < _HOLES
        )  # fmt: skip

    def _arrange(self) -> None:
        """Let rows join, and leave behind those that have ended, where there is reason to."""
        if not self._joining and not self._is_sparse():
            return
        held = [] if self._cache is None else [(row, self._cache.row(i)) for i, row in enumerate(self._rows)]
        going = [(row, cached) for row, cached in [*held, *self._joining] if row.ending is None]
        self._joining = []
        self._rows = [row for row, _ in going]
        self._cache = BatchCache([cached for _, cached in going]) if going else None

    def _queue(self, tokens: mx.array) -> _Chosen:
        """Ask for the tokens after `tokens` (B,), one a row, which need not be computed yet."""
        assert self._cache is not None
        positions = [[row.next_position()] for row in self._rows]
        hidden = self._pass(tokens[:, None], positions, [1] * len(self._rows))
        logits = self._lmm.decoder.logits(hidden)[:, 0]
        chosen = _Chosen(*greedy(logits), {})
        if not all(row.is_plain for row in self._rows if row.ending is None):
            chosen = self._drawn(logits, chosen)
        mx.async_eval(chosen.tokens, chosen.chances)
        return chosen

    def _drawn(self, logits: mx.array, best: _Chosen) -> _Chosen:
        """What is chosen from logits (B, vocab), where some rows do not take the most likely token."""
        drawn, chances, errors = [], [], {}
        for index, row in enumerate(self._rows):
            one = slice(index, index + 1)
            token, chance = best.tokens[one], best.chances[one]
            if row.ending is None and not row.is_plain:
                try:
                    token, chance = row.choose(logits[one])
                    row.follow(token)
                except RaveError as error:
                    errors[index] = error
            drawn.append(token.astype(best.tokens.dtype))
            chances.append(chance)
        return _Chosen(mx.concatenate(drawn), mx.concatenate(chances), errors)

    def _take(self, chosen: _Chosen) -> None:
        """Look at tokens that were asked for."""
        tokens, chances = np.asarray(chosen.tokens), np.asarray(chosen.chances)
        for index, row in enumerate(self._rows):
            if row.ending is None and index in chosen.errors:
                row.fail(chosen.errors[index])
            elif row.ending is None:
                row.take_over(int(tokens[index]), float(chances[index]))

    def _verify(self, cache: BatchCache) -> None:
        """Read the known tokens and the guesses of all rows in one pass, and keep what is right."""
        inputs = [row.inputs() if row.ending is None else [0] for row in self._rows]
        counts = [len(tokens) for tokens in inputs]
        width = max(counts)
        ids = np.array([tokens + [0] * (width - len(tokens)) for tokens in inputs], np.int32)
        places = [[row.position + i for i in range(width)] for row in self._rows]
        hidden = self._pass(mx.array(ids), places, counts)
        # Only what is read is scored: a vocabulary is large.
        index = np.concatenate([width * i + np.arange(n) for i, n in enumerate(counts)]).astype(np.int32)
        logits = self._lmm.decoder.logits(hidden.reshape(1, -1, hidden.shape[-1])[:, mx.array(index)])[0]
        kept, start = [], 0
        for row, tokens in zip(self._rows, inputs, strict=True):
            rows = logits[start : start + len(tokens)]
            kept.append(row.settle(rows, tokens) if row.ending is None else 0)
            start += len(tokens)
        cache.keep(kept, width)

    def _pass(self, ids: mx.array, positions: Sequence[Sequence[int]], counts: Sequence[int]) -> mx.array:
        """Hidden states (B, n, hidden) of new text tokens.

        Args:
            ids: (B, n).
            positions: (B, n) rotary positions, each one more than the one before.
            counts: how many tokens of each row are real; the first of them.
        """
        cache = self._cache
        assert cache is not None
        ends = [at[n - 1] for row, at, n in zip(self._rows, positions, counts, strict=True) if row.ending is None]
        return self._lmm.decoder.hidden(
            self._lmm.decoder.embed_ids(ids),
            Consecutive(tuple(row[0] for row in positions), ids.shape[1]),
            None,
            ids=ids,
            cache=cache,
            gate_span=cache.visual_span if cache.gated else None,
            valid=cache.announce(counts),
            # Another thread may have cancelled the last of them just now.
            longest=1 + max(ends, default=0),
        )
