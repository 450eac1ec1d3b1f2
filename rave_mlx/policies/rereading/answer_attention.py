"""Where the tokens of an answer look: one row of attention a token, over the visual tokens, in a few layers.

Only the row that chooses a token is computed (the prompt's last for the first one) and only its mean over heads is
kept, on the visual tokens: 4 bytes x tokens x layers x visual tokens. No attention matrix is ever held.
"""

from __future__ import annotations

from collections.abc import Collection, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.generation.decode import decode
from rave_mlx.generation.encoding import encode_missing
from rave_mlx.generation.prefill import prefill
from rave_mlx.generation.sampling import Sampling
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.policy import Context, Policy, Rows
from rave_mlx.policies.runtime import attach


@dataclass(eq=False)
class AttentionRecorder:
    """Rows of attention as they come, by layer.

    Attributes:
        layers: those that are watched.
        visual: indices (V,) of the visual tokens of the prompt at hand.
        rows: of each layer the rows (V,) so far.
    """

    layers: tuple[int, ...]
    visual: mx.array | None = None
    rows: dict[int, list[mx.array]] = field(default_factory=dict)

    def cache(self, lmm: LMM, gate: bool | None) -> Cache:
        """An empty cache, through which this recorder sees what is read and written."""
        return lmm.make_cache(gate=gate, hooks=attach(lmm, [_LastRow(self, self.layers)]))

    def begin(self, prompt: Prompt) -> None:
        """Forget the rows of the prompt before."""
        self.visual = mx.array(np.flatnonzero(prompt.token_map.visual))
        self.rows = {}

    def evaluate(self) -> None:
        """Compute the newest rows, so that no graph of earlier steps is kept alive."""
        mx.eval([rows[-1] for rows in self.rows.values()])


@dataclass(frozen=True)
class _LastRow(Policy):
    """Hands the last row's weights, mean over heads, to a recorder; changes nothing."""

    recorder: AttentionRecorder
    chosen: tuple[int, ...]

    name: ClassVar[str] = "profile"
    rows: ClassVar[Rows] = "last"

    def layers(self, count: int) -> Collection[int]:
        return self.chosen

    def observe(self, ctx: Context, weights: mx.array) -> None:
        if ctx.final and ctx.rows[1] == ctx.length:
            seen = mx.mean(weights[0, :, -1], axis=0)[self.recorder.visual]
            self.recorder.rows.setdefault(ctx.layer, []).append(seen)


def answer_attention(
    lmm: LMM,
    prompts: Sequence[Prompt],
    *,
    layers: Sequence[int],
    tokens: int,
    gate: bool | None,
    features: MutableMapping[str, mx.array],
) -> list[NDArray[np.float64]]:
    """Answer prompts greedily and keep where every token of the answers looked.

    What a prompt shares with the one before it, the page as a rule, is read once.

    Args:
        lmm: the model.
        prompts: with an image each.
        layers: the layers to look at.
        tokens: limit of an answer's length.
        gate: whether pair gates are used; None: where the model has any that do something.
        features: of images by digest; those of the prompts' images are added.

    Returns:
        For each prompt (answer tokens, layers, visual tokens): the attention, mean over heads, of the row that chose
        each token, the stop token included.

    Raises:
        MemoryLimitError: for a prompt that does not fit.
    """
    recorder = AttentionRecorder(tuple(layers))
    cache = recorder.cache(lmm, gate)
    scaling = lmm.config.text.rope.scaling
    reusable = scaling is None or not scaling.follows_length
    before: Prompt | None = None
    found = []
    encode_missing(lmm, [image for prompt in prompts for image in prompt.images], features)
    for prompt in prompts:
        recorder.begin(prompt)
        shared = min(before.same_until(prompt), len(prompt) - 1) if before is not None and reusable else 0
        cache.trim(cache.reach(shared))
        logits = prefill(lmm, prompt, cache, features=features)
        limit = min(tokens, lmm.config.text.max_positions - len(prompt))
        count = 0
        for _ in decode(lmm, prompt, cache, logits, Sampling(), max_tokens=limit, features=features):
            count += 1
            recorder.evaluate()
        # `decode` prepares one token more than it hands out.
        rows = [mx.stack(recorder.rows[layer][:count]) for layer in layers]
        found.append(np.array(mx.stack(rows, axis=1)).astype(np.float64))
        before = prompt
    return found
