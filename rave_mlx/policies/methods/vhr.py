"""VHR: vision-aware head reinforcement (arXiv 2412.13949, ACL 2025), without training.

Heads whose output changes most when the image is taken away are the ones that look at it; they are amplified. With
A_h the output of head h at the prompt's last position (before heads are joined and projected):

    VHD_h = || A_h(with image) - A_h(without) ||,   TA_h = || A_h(without) ||^2
    VHD_h = 0 where VHD_h > mean + std and TA_h > mean + std over the layer's heads (outliers)
    A_h *= alpha where VHD_h > median of the layer

Layers are decided in order, with the earlier ones already amplified in both branches: the text branch is the prompt
without its visual tokens (markers around images stay), brought along layer by layer while the prompt is read. Heads
are chosen once a prompt and hold for all its rows and for the answer. Costs the reading of the prompt's text.

From the paper's text; the authors' repository was not at hand. Unverified: the standard deviation (population here),
and whether a text-only prompt keeps image markers. Other policies and gates do not act in the text branch, which has
no visual key for them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np

from rave_mlx.attention import decoder_mask
from rave_mlx.config import LMMConfig
from rave_mlx.errors import UsageError
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.lmm import LMM
from rave_mlx.models.rope import sliding_table, text_table
from rave_mlx.models.self_attention import Attention
from rave_mlx.models.step import Step
from rave_mlx.policies.policy import Context, Policy


@dataclass(frozen=True)
class VHR(Policy):
    """Amplifies the heads whose output the image changes most.

    Attributes:
        alpha: factor of the chosen heads' output; 1 changes nothing.
        last: how many of the last layers, of a model with `of`; in another the same share of them.
        second: whether the second layer takes part too.
        of: see `last`.
    """

    name: ClassVar[str] = "vhr"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "instructblip": {"last": 18, "second": False},
    }
    prefix_reusable: ClassVar[bool] = False
    chunkable: ClassVar[bool] = False

    alpha: float = 2.0
    last: int = 14
    second: bool = True
    of: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.last <= self.of:
            raise UsageError(f"--attention vhr: last is {self.last}; it is a number of layers from 1 to {self.of}")

    def check(self, config: LMMConfig) -> None:
        if config.vision is None:
            raise UsageError("--attention vhr: this model reads text only; no head of it looks at an image")

    def layers(self, count: int) -> Collection[int]:
        chosen = set(range(count - max(1, round(self.last * count / self.of)), count))
        return sorted(chosen | {1}) if self.second and count > 1 else sorted(chosen)

    def plan(self, lmm: LMM, prompt: Prompt, features: Mapping[str, mx.array]) -> Mapping[str, Any]:
        seen = bool(prompt.token_map.visual.any())
        return {"branch": _TextBranch(lmm, prompt) if seen else None, "factors": {}}

    def head_output(self, ctx: Context, output: mx.array) -> mx.array:
        factors: dict[int, mx.array] = ctx.plan["factors"]
        branch: _TextBranch | None = ctx.plan["branch"]
        if ctx.layer not in factors:
            if branch is None:
                return output
            chosen = choose_heads(output[:, :, -1].astype(mx.float32), branch.heads(ctx.layer).astype(mx.float32))
            factors[ctx.layer] = mx.where(chosen, self.alpha, 1.0)[..., None, None]
            branch.finish(factors[ctx.layer])
        return output * factors[ctx.layer].astype(output.dtype)


def choose_heads(seen: mx.array, unseen: mx.array) -> mx.array:
    """Marks (B, H) of the heads to amplify, from their outputs (B, H, d) with and without the image."""
    return select(mx.linalg.norm(seen - unseen, axis=-1), mx.sum(unseen**2, axis=-1))


def select(divergence: mx.array, text: mx.array) -> mx.array:
    """Marks (B, H) from VHD and TA of that shape: above the median, once double outliers are set to 0."""
    outlying = [x > mx.mean(x, axis=-1, keepdims=True) + mx.std(x, axis=-1, keepdims=True) for x in (divergence, text)]
    kept = mx.where(outlying[0] & outlying[1], 0, divergence)
    return kept > mx.median(kept, axis=-1, keepdims=True)


class _TextBranch:
    """The prompt without its visual tokens, brought through the decoder layer by layer beside the prompt itself.

    For each steered layer: `heads`, then `finish` with the factors that were chosen.
    """

    def __init__(self, lmm: LMM, prompt: Prompt):
        text, ids = lmm.config.text, prompt.ids[:, ~prompt.token_map.visual]
        length = ids.shape[1]
        positions = mx.array(np.tile(np.arange(length, dtype=np.int32), (1, 3, 1)))
        table = text_table(text.rope, text.head_dim, positions, length)
        own = sliding_table(text, positions, length)
        sliding = decoder_mask(length, length, window=text.sliding_window)
        self._layers, self._attention_layers = lmm.decoder.layers, text.attention_layers
        self._x = lmm.decoder.embed_ids(mx.array(ids))
        given = None if text.layer_inputs is None else lmm.decoder.layer_inputs(mx.array(ids), self._x, None)
        mask = decoder_mask(length, length)
        self._step = Step(table, mask, sliding, None, None, sliding_rotation=own, layer_inputs=given)
        self._next = 0
        self._heads: mx.array | None = None
        self._gate: mx.array | None = None

    def heads(self, layer: int) -> mx.array:
        """Every head's output (1, H, d) at the last position in a layer, of those with attention, not passed yet."""
        layer = self._attention_layers[layer]
        while self._next < layer:
            self._x = self._layers[self._next](self._x, self._step, None)
            self._next += 1
        block = self._layers[layer]
        attention = block.attention
        assert isinstance(attention, Attention)
        joined, self._gate = attention.ungated(attention.project(block.input_norm(self._x)), self._step, None)
        self._heads = joined.reshape(*joined.shape[:2], attention.num_heads, -1)
        return self._heads[:, -1]

    def finish(self, factors: mx.array) -> None:
        """Leave the layer of `heads` with its heads' outputs times `factors` (1, H, 1, 1)."""
        assert self._heads is not None
        block = self._layers[self._next]
        scaled = self._heads * factors.reshape(1, 1, -1, 1)
        assert isinstance(block.attention, Attention)
        joined = block.attention.gated(scaled.astype(self._x.dtype).flatten(-2), self._gate)
        (self._x,) = block.finish(self._x, joined, *block.extra(self._step))
        self._next += 1
        self._heads = None
