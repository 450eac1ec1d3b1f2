"""An answer that is written by itself, among others that are written together."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from rave_mlx.errors import RaveError
from rave_mlx.generation.answer_row import AnswerRow
from rave_mlx.generation.decode import continued, read_again, step
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.lmm import LMM
from rave_mlx.models.rope_scaling import outgrows


class LoneAnswer:
    """One with attention policies, or whose rotary frequencies change while it is written.

    Guesses of its tokens are not used.

    Args:
        lmm: the model.
        row: has its first token.
        cache: holds the prompt.
        features: of the prompt's images by digest.
    """

    def __init__(self, lmm: LMM, row: AnswerRow, cache: Cache, features: Mapping[str, mx.array]):
        self.row = row
        self._lmm, self._cache, self._features = lmm, cache, features

    def advance(self) -> None:
        """Write a token."""
        row, token = self.row, self.row.queue[0]
        try:
            if outgrows(self._lmm.config.text.rope, row.position + 1):
                logits = read_again(self._lmm, continued(row.job.prompt, row.ids), self._cache, self._features)
            else:
                logits = step(self._lmm, self._cache, mx.array([token]), row.position)
        except RaveError as error:
            row.fail(error)
            return
        row.settle(logits, [token])
