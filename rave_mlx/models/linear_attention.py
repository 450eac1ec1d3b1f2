"""Linear attention in the place of attention: Gated DeltaNet (arXiv 2412.06464), as Qwen3-Next and Qwen3.5 have it.

Queries, keys and values pass through a short convolution over the tokens before them, and meet in the state of the
gated delta rule (`delta_rule`); its outputs are normed and gated by the token. There are no positions and no mask:
tokens are in order, and padding does not touch the state.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.backend.activations import silu, silu_mul
from rave_mlx.backend.decode_ops import RMSNorm
from rave_mlx.config import LinearAttentionConfig, TextConfig
from rave_mlx.models.delta_rule import Updates, run, run_trained, unit_heads
from rave_mlx.models.joined import Joined, outputs
from rave_mlx.models.state_cache import StateCache


class ShortConvolution(nn.Module):
    """Every channel's own weighted sum over a token and the tokens before it."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.weight = mx.random.normal((channels, kernel, 1)) * kernel**-0.5

    def __call__(self, x: mx.array) -> mx.array:
        """(B, L, channels) of x (B, kernel - 1 + L, channels), which begins with the tokens before."""
        weight: mx.array = self.weight[..., 0].T
        kernel = weight.shape[0]
        count = x.shape[1] - kernel + 1
        if count == 1:
            return mx.sum(x * weight, axis=1, keepdims=True)
        total = x[:, :count] * weight[0]
        for i in range(1, kernel):
            total = total + x[:, i : i + count] * weight[i]
        return total


class LinearAttention(nn.Module):
    """One layer's linear attention. Its parameters stand where those of `Attention` stand in other layers."""

    def __init__(self, text: TextConfig, linear: LinearAttentionConfig):
        super().__init__()
        hidden, heads = text.hidden_size, linear.value_heads
        self.qkv_proj = nn.Linear(hidden, linear.channels, bias=False)
        self.z_proj = nn.Linear(hidden, heads * linear.value_dim, bias=False)
        self.b_proj = nn.Linear(hidden, heads, bias=False)
        self.a_proj = nn.Linear(hidden, heads, bias=False)
        self.conv = ShortConvolution(linear.channels, linear.kernel)
        # The state fades by exp(-exp(decay_log) softplus(a + decay_bias)).
        self.decay_log = mx.zeros(heads)
        self.decay_bias = mx.ones(heads)
        self.norm = RMSNorm(linear.value_dim, text.norm_eps)
        self.o_proj = nn.Linear(heads * linear.value_dim, hidden, bias=False)
        self._shape = linear
        self._joined: Joined | None = None

    @property
    def inputs(self) -> tuple[nn.Module, ...]:
        """The projections of the layer's input."""
        return self.qkv_proj, self.z_proj, self.b_proj, self.a_proj

    def project(self, x: mx.array) -> list[mx.array]:
        """The first arguments of a call, from normalized states (B, L, hidden)."""
        return outputs(self, self.inputs, x)

    heads = project

    def __call__(
        self,
        qkv: mx.array,
        z: mx.array,
        b: mx.array,
        a: mx.array,
        real: mx.array | None = None,
        cache: StateCache | None = None,
    ) -> mx.array:
        """The heads side by side (B, L, Hv * Dv).

        Args:
            qkv: queries, keys and values side by side, not convolved yet (B, L, channels).
            z: what gates the outputs (B, L, Hv * Dv).
            b, a: how far the state moves towards a value, and how much it fades, (B, L, Hv) before their functions.
            real: (B, L) marks of tokens that are no padding; None where all are real.
            cache: what came before, extended in place. None: the new tokens are all there is.
        """
        if real is not None:
            qkv = mx.where(real[..., None], qkv, 0)
        before = (StateCache() if cache is None else cache).tail(qkv, self._shape.kernel - 1)
        rows = mx.concatenate([before, qkv], axis=1)
        updates = self._updates(silu(self.conv(rows)), b, a)
        if real is not None:
            updates = updates.only(real)
        if cache is None:
            out = run_trained(updates)
        else:
            out, state = run(updates, cache.state(updates))
            cache.extend(rows, updates, state, real)
        return silu_mul(z, self.norm(out).flatten(-2))

    def _updates(self, convolved: mx.array, b: mx.array, a: mx.array) -> Updates:
        """What the tokens do to the state."""
        shape, leading = self._shape, convolved.shape[:2]
        width = shape.key_heads * shape.key_dim
        q, k, v = mx.split(convolved, [width, 2 * width], axis=-1)
        q, k = unit_heads(*(x.reshape(*leading, shape.key_heads, shape.key_dim) for x in (q, k)))
        bias = self.decay_bias.astype(mx.float32)
        fade = mx.exp(self.decay_log.astype(mx.float32)) * nn.softplus(a.astype(mx.float32) + bias)
        values = v.reshape(*leading, shape.value_heads, shape.value_dim)
        return Updates(q, k, values, -fade, mx.sigmoid(b.astype(mx.float32)))
