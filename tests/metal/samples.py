"""One small call for each kernel and compile-time feature, and what it takes to edit a kernel's text."""

import mlx.core as mx
import numpy as np
from oracle import Shape, draw

from rave_mlx.attention.gate import EPS, GateTerms, QueryMap, RawQueries
from rave_mlx.attention.kernels.fused import Packed, Request, fused
from rave_mlx.attention.kernels.source import Call
from rave_mlx.attention.kernels.tuning import DecodeTile, PrefillTile

DECODE = DecodeTile(4, 8, 4, 1)
PREFILL = PrefillTile(16, 4, 1)


def sample(
    num_queries: int, num_keys: int = 90, dtype: mx.Dtype = mx.float32, width: int = 64, seed: int = 0
) -> Request:
    """Two KV heads of four query heads, all gated, one visual stretch, causal."""
    rng = np.random.default_rng(seed)

    def normal(*size: int) -> mx.array:
        return mx.array(rng.standard_normal(size).astype(np.float32)).astype(dtype)

    visual = mx.zeros((num_keys, 1)).at[5 : num_keys - 20].add(1)
    gate = GateTerms(
        normal(2, 8, num_queries, 8).astype(mx.float32),
        normal(2, 2, num_keys, 8).astype(mx.float32) * visual,
        (0, 1),
        (5, num_keys - 20),
    )
    q, k, v = normal(2, 8, num_queries, width), normal(2, 2, num_keys, width), normal(2, 2, num_keys, width)
    return Request(q, k, v, width**-0.5, "causal", gate)


def packed(request: Request, bits: int, group_size: int) -> tuple[Request, Request]:
    """The request with quantized keys and values, and the one with the values that those stand for."""
    from dataclasses import replace

    k, v = (Packed(*mx.quantize(x, group_size, bits), group_size, bits) for x in (request.k, request.v))
    plain = [mx.dequantize(x.codes, x.scales, x.biases, group_size, bits) for x in (k, v)]
    return replace(request, k=k, v=v), replace(request, k=plain[0], v=plain[1])


def raw(request: Request, seed: int = 0) -> Request:
    """The request with other gate features of its queries, and with what they are computed from."""
    from dataclasses import replace

    gate, rng = request.gate, np.random.default_rng(seed)
    batch, heads, num_queries, rank = gate.u.shape
    width = request.q.shape[-1]
    q = mx.array(3 * rng.standard_normal((batch, heads, num_queries, width)).astype(np.float32)).astype(request.q.dtype)
    project = rng.standard_normal((heads, rank, width)).astype(np.float32).swapaxes(1, 2) * np.float32(width**-0.5)
    offset = rng.standard_normal((heads, 1, rank)).astype(np.float32)
    exact = np.array(q.astype(mx.float32), np.float64)
    u = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + EPS) @ project + offset
    terms = RawQueries(q, QueryMap(mx.array(project), mx.array(offset)))
    return replace(request, gate=replace(gate, u=mx.array(u.astype(np.float32)), raw=terms))


def calls(request: Request, tile: DecodeTile | PrefillTile) -> list[Call]:
    """The launches of a request, with outputs that nothing has computed."""
    seen: list[Call] = []

    def record(call: Call) -> list[mx.array]:
        seen.append(call)
        return [mx.zeros(s, d) for s, d in zip(call.output_shapes, call.output_dtypes, strict=True)]

    fused(request, record, tile)
    return seen


def every_variant() -> list[Call]:
    """A launch of every kernel with every combination of features and every dtype."""
    rng, found = np.random.default_rng(0), []
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        for squash in (None, "identity", "tanh", "suppress", "boost"):
            for masked in (False, True):
                for kinds in (0, 3):
                    shape = Shape(64, dtype, 16 if squash else 0, dtype, squash, masked, kinds)
                    request = draw(rng, shape, few_rows=True, longest=50)
                    found += calls(request, DecodeTile(4, 16, 8, 2)) + calls(request, PrefillTile(16, 4, 1))
        found += calls(raw(sample(1, dtype=dtype)), DecodeTile(4, 8, 4, 1))
        for bits in (4, 8):
            request, _ = packed(sample(1, dtype=dtype), bits, 32)
            found += calls(request, DecodeTile(4, 8, 4, 1))
    return found


def without_barrier(index: int):
    """An edit that comments out the index-th threadgroup barrier of the kernel."""

    def edit(text: str) -> str:
        at = -1
        for _ in range(index + 1):
            at = text.index("threadgroup_barrier(", at + 1)
        return text[:at] + "//" + text[at:]

    return edit


def replacing(old: str, new: str):
    """An edit that replaces text which has to be there; kernels that lack it stay as they are."""

    def edit(text: str) -> str:
        assert old in text, old
        return text.replace(old, new)

    return edit
