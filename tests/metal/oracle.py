"""Pair-gate attention in float64 NumPy, written from the definition and from nothing else, and random calls for it."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from rave_mlx.attention.gate import GateTerms
from rave_mlx.attention.kernels.fused import Request

LIMITS = {mx.float32: 2e-6, mx.float16: 5e-4, mx.bfloat16: 4e-3}
"""Relative L2 error allowed for each dtype of q, k and v."""


@dataclass(frozen=True)
class Expected:
    out: np.ndarray
    lse: np.ndarray
    mass: np.ndarray | None


def squash(x: np.ndarray, kind: str, limit: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        return {
            "identity": lambda: x,
            "tanh": lambda: limit * np.tanh(x / limit),
            "suppress": lambda: np.log(2) - np.logaddexp(0, -x),
            "boost": lambda: np.logaddexp(0, x) - np.log(2),
        }[kind]()


def attention(request: Request) -> Expected:
    """Output, log-sum-exp and kind masses of a request, in float64 on the stored (rounded) inputs."""
    q, k, v = (np.array(x.astype(mx.float32), np.float64) for x in (request.q, request.k, request.v))
    ratio, num_keys = q.shape[1] // k.shape[1], k.shape[2]
    k, v = np.repeat(k, ratio, axis=1), np.repeat(v, ratio, axis=1)
    scores = request.scale * q @ k.swapaxes(-1, -2)
    gate = request.gate
    if gate is not None:
        u, w = (np.array(x.astype(mx.float32), np.float64) for x in (gate.u, gate.v))
        for row, group in enumerate(gate.groups):
            heads = slice(row * ratio, (row + 1) * ratio)
            bias = squash(u[:, heads] @ w[:, row, None].swapaxes(-1, -2), gate.squash, gate.limit)
            scores[:, group * ratio : (group + 1) * ratio] += bias
    allowed = np.broadcast_to(visible(request), scores.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = np.where(allowed, scores, -np.inf)
        top = np.maximum(scores.max(-1, keepdims=True), -1e300)
        p = np.exp(scores - top)
        total = p.sum(-1, keepdims=True)
        lse = (top + np.log(total))[..., 0]
        p = np.where(total > 0, p / np.where(total > 0, total, 1), 0)
    mass = None
    if request.kinds is not None:
        kinds = np.broadcast_to(np.array(request.kinds), (q.shape[0], num_keys))
        mass = np.stack([(p * (kinds == n)[:, None, None]).sum(-1) for n in range(request.num_kinds)], axis=-1)
    return Expected(p @ v, lse, mass)


def visible(request: Request) -> np.ndarray:
    """Boolean, broadcastable to (B, H, Lq, Lk)."""
    _, _, _, num_queries, num_keys, _ = request.sizes
    positions, keys = np.arange(num_queries)[:, None] + num_keys - num_queries, np.arange(num_keys)
    allowed = np.ones((num_queries, num_keys), bool)
    if request.window:
        allowed = keys > positions - request.window
    if isinstance(request.mask, str):
        return allowed & (keys <= positions)
    return allowed if request.mask is None else allowed & np.array(request.mask)


@dataclass(frozen=True)
class Shape:
    """What of a call is compiled into its kernels; the rest is drawn at random."""

    width: int
    dtype: mx.Dtype = mx.float32
    gate_width: int = 16
    feature: mx.Dtype = mx.float32
    squash: str | None = "tanh"
    masked: bool = False
    kinds: int = 0


def draw(rng: np.random.Generator, shape: Shape, *, few_rows: bool, longest: int, gain: float = 1.0) -> Request:
    """A random call: GQA ratio 1-8, lengths from 1, visual spans anywhere (none, several, all), padding, window."""
    ratio, num_kv, batch = int(rng.integers(1, 9)), int(rng.integers(1, 4)), int(rng.integers(1, 3))
    num_keys = int(np.exp(rng.uniform(0, np.log(longest))))
    num_queries = int(rng.integers(1, 9)) if few_rows else int(np.exp(rng.uniform(0, np.log(max(longest // 8, 40)))))
    heads = ratio * num_kv

    def normal(*size: int, dtype: mx.Dtype = shape.dtype, scale: float = 1.0) -> mx.array:
        return mx.array((scale * rng.standard_normal(size)).astype(np.float32)).astype(dtype)

    q = normal(batch, heads, num_queries, shape.width)
    k, v = (normal(batch, num_kv, num_keys, shape.width) for _ in range(2))
    gate = None
    if shape.squash is not None:
        groups = tuple(sorted(rng.choice(num_kv, int(rng.integers(1, num_kv + 1)), replace=False).tolist()))
        visual = spans(rng, batch, num_keys)
        u = normal(batch, len(groups) * ratio, num_queries, shape.gate_width, dtype=shape.feature, scale=gain)
        w = normal(batch, len(groups), num_keys, shape.gate_width, dtype=shape.feature)
        where = np.flatnonzero(visual.any(0))
        span = (int(where[0]), int(where[-1]) + 1) if len(where) else (0, 0)
        w = mx.where(mx.array(visual)[:, None, :, None], w, mx.zeros((), shape.feature))
        gate = GateTerms(u, w, groups, span, shape.squash, float(rng.uniform(1, 6)))
    mask = random_mask(rng, batch, num_queries, num_keys) if shape.masked else [None, "causal"][int(rng.random() < 0.7)]
    window = int(rng.integers(1, num_keys + 2)) if rng.random() < 0.3 else None
    kinds = mx.array(rng.integers(0, shape.kinds, (batch, num_keys)).astype(np.uint8)) if shape.kinds else None
    return Request(q, k, v, shape.width**-0.5 * float(rng.uniform(0.5, 2)), mask, gate, window, kinds, shape.kinds)


def spans(rng: np.random.Generator, batch: int, num_keys: int) -> np.ndarray:
    """Marks (B, Lk) of visual keys: none, all, or up to three stretches a row."""
    visual = np.zeros((batch, num_keys), bool)
    choice = rng.random()
    if choice < 0.1:
        return visual
    if choice < 0.2:
        return ~visual
    for row in visual:
        for _ in range(int(rng.integers(1, 4))):
            first, last = np.sort(rng.integers(0, num_keys + 1, 2))
            row[first:last] = True
    return visual


def random_mask(rng: np.random.Generator, batch: int, num_queries: int, num_keys: int) -> mx.array:
    """Left padding with causal order, as `padded` makes it, or any boolean array; a query may see no key."""
    if rng.random() < 0.5:
        return mx.array(rng.random((batch, 1, num_queries, num_keys)) < 0.7)
    first = rng.integers(0, num_keys, batch)
    valid = np.arange(num_keys) >= first[:, None]
    causal = np.arange(num_queries)[:, None] + num_keys - num_queries >= np.arange(num_keys)
    return mx.array((causal & valid[:, None])[:, None])
