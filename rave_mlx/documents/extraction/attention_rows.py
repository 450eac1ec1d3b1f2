"""Where a model looks while it writes parts of an answer: one map of attention for each token of them.

The answer is known; it is read once more behind its prompt, and of the tokens in question the row of attention that
chose them is kept. Not every head looks at what is written: of all heads those count that look at the image, and there
at little of it (as the localization heads of Kang et al., arXiv 2503.06287). Tokens that draw attention without meaning
(sinks) are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.generation.decode import continued, step
from rave_mlx.generation.prefill import prefill
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.row_recorder import Recorder, Row, RowObserver
from rave_mlx.policies.runtime import attach

Floats = NDArray[np.float64]
Span = tuple[int, int]

GOOD_HEAD = 0.6
"""Share of the best head's score from which on a head counts."""


@dataclass(frozen=True, eq=False)
class TokenMaps:
    """What chosen heads look at while the tokens of an answer are chosen.

    Attributes:
        tokens: (T,) indices of the answer's tokens, ascending.
        maps: (T, V) attention over the prompt's visual tokens; a row sums to 1, or is 0 where the heads see no image.
        heads: the chosen ones: (layer, head).
    """

    tokens: NDArray[np.int64]
    maps: Floats
    heads: tuple[tuple[int, int], ...]

    def of(self, span: Span) -> Floats:
        """(t, V) the rows of the tokens [start, stop)."""
        return self.maps[(self.tokens >= span[0]) & (self.tokens < span[1])]


def look_up(
    lmm: LMM,
    prompt: Prompt,
    answer: Sequence[int],
    spans: Sequence[Span],
    *,
    gate: bool | None = None,
    features: Mapping[str, mx.array] | None = None,
) -> TokenMaps:
    """Read a prompt and its answer again, and keep where the model looked for some tokens.

    Args:
        lmm: the model.
        prompt: what was asked; it has an image.
        answer: ids of the answer.
        spans: tokens of the answer, [start, stop) each.
        gate: whether the pair gates were used, as of `Job.gate`.
        features: of the prompt's images by digest, where they are known.
    """
    wanted = sorted({index for start, stop in spans for index in range(start, min(stop, len(answer)))})
    recorder = Recorder(lmm.decoder, np.flatnonzero(prompt.token_map.visual))
    cache = lmm.make_cache(gate=gate, hooks=attach(lmm, [RowObserver(recorder, without_sinks=True)]))
    recorder.cache = cache
    prefill(lmm, prompt, cache, features=features)
    recorder.evaluate()
    rows = {0: recorder.rows[0]}
    for index in wanted:
        if index > 0:
            rows[index] = _row_before(lmm, prompt, answer, index, cache, recorder)
    return _maps([rows[index] for index in wanted], wanted)


def _row_before(lmm: LMM, prompt: Prompt, answer: Sequence[int], index: int, cache: Cache, recorder: Recorder) -> Row:
    """The row that chose a token: that of the one before it. What comes earlier is read in one pass."""
    last = len(prompt) + index - 1
    if cache.length < last:
        mx.eval(lmm.read(continued(prompt, answer[:index]), cache, last, {}))
        cache.evaluate()
    position = prompt.token_map.next_position + index - 1
    mx.eval(step(lmm, cache, mx.array([answer[index - 1]]), position))
    recorder.evaluate()
    return recorder.rows[-1]


def _maps(rows: Sequence[Row], tokens: Sequence[int]) -> TokenMaps:
    """The mean over the heads that look at little of the image."""
    visual = len(rows[0].weights[0, 0]) if rows else 0
    if not rows or not visual:
        return TokenMaps(np.array(tokens, np.int64), np.zeros((len(rows), visual)), ())
    heads = choose_heads(np.stack([row.weights for row in rows]))
    chosen = np.stack([np.mean([row.weights[at] for at in heads], axis=0, dtype=np.float64) for row in rows])
    total = chosen.sum(axis=1, keepdims=True)
    return TokenMaps(np.array(tokens, np.int64), chosen / np.maximum(total, 1e-12), heads)


def choose_heads(weights: NDArray[np.float16], share: float = GOOD_HEAD) -> tuple[tuple[int, int], ...]:
    """The heads (layer, head) whose attention on the image is large and lies on few of its tokens.

    The score of a head is the largest weight that it gives to a visual token, mean over the rows: the product of the
    share of attention on the image and of that token's share of it.

    Args:
        weights: (T, N, H, V) of T rows.
        share: of the best head's score from which on a head is chosen.
    """
    scores = weights.max(axis=-1).mean(axis=0, dtype=np.float64)
    found = np.argwhere(scores >= share * scores.max())
    return tuple((int(layer), int(head)) for layer, head in found)
