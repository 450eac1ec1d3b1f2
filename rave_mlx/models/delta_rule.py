"""The gated delta rule (Gated DeltaNet, arXiv 2412.06464): attention whose memory is one matrix a head.

Every token lets the state S (values, keys) fade by its factor, then moves what S gives for its key towards its value:

    S <- exp(decay) S
    S <- S + strength (value - S key) key^T
    output = S query

Token by token (on Metal by mlx-lm's kernel), or in chunks whose tokens are computed as matrix
products, as the paper does (section 3.3): for prompts where there is no kernel, and wherever a gradient is taken. A
token of padding has decay and strength 0 and so leaves the state exactly as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx import backend
from rave_mlx.backend.mlx_lm_file import mlx_lm_file

CHUNK = 32
"""Tokens of a chunk."""
_FEW_TOKENS = 4
"""New tokens up to which they are taken one after the other."""
_EPS = 1e-6


@dataclass(frozen=True)
class Updates:
    """What L tokens do to the state. Hk heads of keys, each for Hv / Hk heads of values.

    Attributes:
        queries, keys: of length 1 (queries: of length key width ** -0.5), (B, L, Hk, Dk).
        values: (B, L, Hv, Dv).
        decay: logarithm of the factor by which the state fades, at most 0, (B, L, Hv) float32.
        strength: share of the way towards the value, from 0 to 1, (B, L, Hv) float32.
    """

    queries: mx.array
    keys: mx.array
    values: mx.array
    decay: mx.array
    strength: mx.array

    @property
    def length(self) -> int:
        """L."""
        return int(self.keys.shape[1])

    @property
    def arrays(self) -> tuple[mx.array, ...]:
        """All of them, in the order of the fields."""
        return self.queries, self.keys, self.values, self.decay, self.strength

    def map(self, function: Callable[[mx.array], mx.array]) -> Updates:
        """The same of other tokens: `function` of every array."""
        return Updates(*map(function, self.arrays))

    def only(self, real: mx.array) -> Updates:
        """The same where tokens without a mark in `real` (B, L) leave the state as it is."""
        marks = real[..., None]
        return Updates(
            self.queries, self.keys, self.values, mx.where(marks, self.decay, 0.0), mx.where(marks, self.strength, 0.0)
        )


def unit_heads(queries: mx.array, keys: mx.array) -> tuple[mx.array, mx.array]:
    """Queries and keys (B, L, H, D) as `Updates` wants them."""
    normalize = mlx_lm_file("models.gated_delta").normalize_qk
    found: tuple[mx.array, mx.array] = normalize(queries, keys, inv_scale=keys.shape[-1] ** -0.5, eps=_EPS)
    return found


def empty_state(updates: Updates) -> mx.array:
    """The state (B, Hv, Dv, Dk) before the first token."""
    return mx.zeros((updates.keys.shape[0], *updates.values.shape[2:], updates.keys.shape[-1]), mx.float32)


def run(updates: Updates, state: mx.array) -> tuple[mx.array, mx.array]:
    """The outputs (B, L, Hv, Dv) of tokens, and the state after them; without a gradient on some backends.

    Args:
        updates: of the tokens.
        state: before them (B, Hv, Dv, Dk), float32.
    """
    # Their shapes are those that mlx-lm's kernel takes.
    if backend.current().kind == "metal" and updates.keys.shape[-1] % 32 == 0:
        kernel = mlx_lm_file("models.gated_delta").gated_delta_kernel
        q, k, v, decay, strength = updates.arrays
        found: tuple[mx.array, mx.array] = kernel(q, k, v, mx.exp(decay), strength, state)
        return found
    return run_chunks(updates, state) if updates.length > _FEW_TOKENS else _run_tokens(updates, state)


def _run_tokens(updates: Updates, state: mx.array) -> tuple[mx.array, mx.array]:
    """`run` token by token, in two passes over the state each: one product that reads it, one that writes it."""
    ratio = updates.values.shape[2] // updates.keys.shape[2]
    q, k = (mx.repeat(x.astype(mx.float32), ratio, axis=2) for x in (updates.queries, updates.keys))
    v, fade, strength = updates.values.astype(mx.float32), mx.exp(updates.decay)[..., None], updates.strength[..., None]
    both, same = mx.stack([k, q], axis=-1), mx.sum(k * q, axis=-1, keepdims=True)
    outputs = []
    for i in range(updates.length):
        found = state @ both[:, i]
        change = strength[:, i] * (v[:, i] - fade[:, i] * found[..., 0])
        outputs.append(fade[:, i] * found[..., 1] + change * same[:, i])
        state = mx.addmm(fade[:, i, ..., None] * state, change[..., None], k[:, i, ..., None, :])
    return mx.stack(outputs, axis=1).astype(updates.values.dtype), state


def run_chunks(updates: Updates, state: mx.array, chunk: int = CHUNK) -> tuple[mx.array, mx.array]:
    """`run` by chunks of tokens, in float32 and with a gradient.

    Within a chunk, with s_i the decay up to token i: the changes u of the state by its tokens solve the triangular
    system u_i + sum over j < i of strength_i exp(s_i - s_j) (k_i k_j) u_j = strength_i (v_i - exp(s_i) S k_i).

    Args:
        updates, state: as of `run`.
        chunk: tokens of a chunk, a power of 2.
    """
    length, dtype = updates.length, updates.values.dtype
    chunk = min(chunk, 1 << (length - 1).bit_length())
    ratio = updates.values.shape[2] // updates.keys.shape[2]
    q, k, v, decay, strength = (_in_chunks(x, chunk, ratio if i < 2 else 1) for i, x in enumerate(updates.arrays))
    total = mx.cumsum(decay, axis=-1)
    lower = mx.array(_lower(chunk))
    # What is above the diagonal would overflow.
    fade = mx.exp(mx.where(lower, total[..., :, None] - total[..., None, :], -mx.inf))
    grown, strength = mx.exp(total)[..., None], strength[..., None]
    keys = k.swapaxes(-1, -2)
    solve = _inverse(mx.tril((k * strength) @ keys * fade, -1))
    changes, reads = solve @ (v * strength), solve @ (k * (strength * grown))
    within = q @ keys * fade
    q, last = q * grown, mx.exp(total[..., -1:])[..., None]
    k = k * mx.exp(total[..., -1:] - total)[..., None]
    outputs = []
    for i in range(q.shape[2]):
        before = state.swapaxes(-1, -2)
        change = changes[:, :, i] - reads[:, :, i] @ before
        outputs.append(q[:, :, i] @ before + within[:, :, i] @ change)
        state = state * last[:, :, i] + change.swapaxes(-1, -2) @ k[:, :, i]
    out = mx.stack(outputs, axis=2).flatten(2, 3)[:, :, :length]
    return out.swapaxes(1, 2).astype(dtype), state


def run_trained(updates: Updates) -> mx.array:
    """The outputs of tokens from the first one on, (B, L, Hv, Dv); of their computation nothing is kept for a gradient.

    Only the updates are: what is between them and the outputs is much larger, and computed again.
    """

    def outputs(*arrays: mx.array) -> mx.array:
        made = Updates(*arrays)
        return run_chunks(made, empty_state(made))[0]

    found: mx.array = mx.checkpoint(outputs)(*updates.arrays)
    return found


def _in_chunks(x: mx.array, chunk: int, repeats: int) -> mx.array:
    """(B, L, H, ...) as (B, H * repeats, chunks, chunk, ...) in float32; tokens that are missing are zero."""
    missing = -x.shape[1] % chunk
    x = mx.repeat(x.astype(mx.float32), repeats, axis=2) if repeats > 1 else x.astype(mx.float32)
    x = mx.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)).swapaxes(1, 2)
    return x.reshape(*x.shape[:2], -1, chunk, *x.shape[3:])


def _inverse(lower: mx.array) -> mx.array:
    """The inverse of 1 + `lower`, strictly lower triangular (..., n, n), n a power of 2.

    From inverses of blocks on the diagonal to those of blocks twice as large: as stable as forward substitution, and
    all of it matrix products.
    """
    size = lower.shape[-1]
    found, block = mx.eye(size) - lower * mx.array(_beside(size, 1)), 2
    while block < size:
        found = found - found @ (lower * mx.array(_beside(size, block))) @ found
        block *= 2
    return found


@cache
def _lower(size: int) -> NDArray[np.bool_]:
    """Marks (size, size) of the diagonal and what is below it."""
    return np.tri(size, dtype=bool)


@cache
def _beside(size: int, block: int) -> NDArray[np.float32]:
    """Ones in the lower left quarter of each block of twice `block` rows on the diagonal, (size, size)."""
    places = np.arange(size) // block
    odd = places % 2 == 1
    marks: NDArray[np.bool_] = odd[:, None] & (places[:, None] - 1 == places[None, :])
    return marks.astype(np.float32)
