"""Attention masks. Three forms: None (every key), "causal" (aligned to the last key), or a boolean array
broadcastable to (B, H, Lq, Lk) in which True means "may attend"."""

from __future__ import annotations

from typing import Literal

import mlx.core as mx

Mask = Literal["causal"] | mx.array | None


def causal(num_queries: int, num_keys: int) -> mx.array:
    """Boolean (Lq, Lk): query i, the (Lk - Lq + i)-th token, sees the keys up to itself."""
    rows = mx.arange(num_keys - num_queries, num_keys)
    return rows[:, None] >= mx.arange(num_keys)


def as_bool(mask: Mask, num_queries: int, num_keys: int) -> mx.array | None:
    """The mask as a boolean array, or None when every key is visible."""
    if isinstance(mask, str):
        return causal(num_queries, num_keys)
    return mask


def padded(valid: mx.array, num_queries: int) -> mx.array:
    """Causal mask (B, 1, Lq, Lk) for a left-padded batch; `valid` (B, Lk) marks real tokens.

    A padding query would see no key at all, and its softmax would be NaN; it sees itself instead. Its output is
    never read.
    """
    num_keys = valid.shape[1]
    allowed = causal(num_queries, num_keys)[None] & valid[:, None, :]
    itself = mx.arange(num_keys - num_queries, num_keys)[:, None] == mx.arange(num_keys)
    return (allowed | itself[None])[:, None]
