"""Which keys a query may attend to.

A mask has one of three forms: None (every key), "causal" (aligned to the last key), or a boolean array broadcastable
to (B, H, Lq, Lk) in which True means "may attend".
"""

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


def with_a_key(mask: mx.array) -> tuple[mx.array, mx.array]:
    """A mask under which every query has a key, for the sake of the softmax, which is 0 / 0 over none.

    Returns:
        The mask, with every key open to the queries that had none, and (..., Lq, 1) marks of the queries that had one:
        the output of the others is to be set to zero. A gradient meets no NaN on the way.
    """
    has_key = mx.any(mask, axis=-1, keepdims=True)
    return mask | ~has_key, has_key


def decoder_mask(
    num_queries: int,
    num_keys: int,
    *,
    valid: mx.array | None = None,
    window: int | None = None,
    lookahead: mx.array | None = None,
    beyond_window: bool = False,
) -> Mask:
    """The mask of the last `num_queries` of `num_keys` tokens: causal, with exceptions.

    Args:
        num_queries: new tokens.
        num_keys: all tokens, old and new.
        valid: (B, Lk) marks of real tokens in a padded batch; padding may stand anywhere. A padding query might see
            no key at all, and its softmax would be NaN; it sees itself as well. Its output is never read.
        window: a token sees this many real tokens, itself the last.
        lookahead: (B, 2, Lq) first and end of keys that a token also sees, later ones mostly; equal where there are
            none.
        beyond_window: whether these are seen outside of the window, too.

    Returns:
        "causal" where there is no exception, else boolean (B or 1, 1, Lq, Lk).
    """
    if window is not None and num_keys <= window:
        window = None
    if valid is None and window is None and lookahead is None:
        return "causal"
    rows = mx.arange(num_keys - num_queries, num_keys)[:, None]
    keys = mx.arange(num_keys)
    allowed = (rows >= keys)[None]
    ahead = None
    if lookahead is not None:
        ahead = (keys >= lookahead[:, 0, :, None]) & (keys < lookahead[:, 1, :, None])
        allowed = allowed | ahead
    if window is not None and valid is None:
        allowed = allowed & (rows - keys < window)
    elif window is not None and valid is not None:
        number = mx.cumsum(valid.astype(mx.int32), axis=1)
        allowed = allowed & (number[:, num_keys - num_queries :, None] - number[:, None] < window)
    if window is not None and ahead is not None and beyond_window:
        allowed = allowed | ahead
    if valid is not None:
        allowed = (allowed & valid[:, None, :]) | (rows == keys)
    return allowed[:, None]
