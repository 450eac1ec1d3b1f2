"""One attention call as launches of the fused kernels. What runs a launch is passed in: MLX, or the tests' emulator.

Attention over a long row of keys is split: each split returns a normalised part with its log-sum-exp, and one small
kernel merges them. The same form is the result of a single split, so nothing is merged when there is only one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx

from rave_mlx.attention.gate import EPS, GateTerms, Squash
from rave_mlx.attention.kernels.source import Call, Value, Variant
from rave_mlx.attention.kernels.tuning import DecodeTile, PrefillTile, decode_tile, prefill_tile
from rave_mlx.attention.masks import Mask
from rave_mlx.backend.activations import LOG2E

Run = Callable[[Call], Sequence[mx.array]]

_PHI: dict[Squash, int] = {"identity": 0, "tanh": 1, "suppress": 2, "boost": 3}
_CONSTANTS = 256
_FEW_ROWS = 16
"""Query rows a KV head (heads times queries) up to which one threadgroup keeps them all in registers or nearly so."""


@dataclass(frozen=True)
class Packed:
    """Affine-quantized keys or values, as `mx.quantize` returns them.

    Attributes:
        codes: (B, G, Lk, d * bits / 32) uint32.
        scales, biases: (B, G, Lk, d / group_size), in the queries' dtype.
        group_size, bits: what they were quantized with.
    """

    codes: mx.array
    scales: mx.array
    biases: mx.array
    group_size: int
    bits: int


@dataclass(frozen=True)
class Result:
    """What a fused call returns.

    Attributes:
        out: (B, H, Lq, d) in the queries' dtype; zero for a query that may attend to no key.
        lse: (B, H, Lq) float32, natural log of the softmax denominator; -inf for a query without a key.
        mass: (B, H, Lq, kinds) float32, attention mass of each key kind; None when no kinds were given.
    """

    out: mx.array
    lse: mx.array
    mass: mx.array | None


@dataclass(frozen=True)
class Request:
    """One attention call; no input has to be contiguous.

    Attributes:
        q: queries (B, H, Lq, d).
        k, v: keys and values (B, G, Lk, d), or both quantized.
        scale: factor of the dot products.
        mask: None, "causal" or boolean, as of `attend`.
        gate: bias terms.
        window: a query sees only the last `window` keys up to its own position; None for no limit.
        kinds: (B, Lk) uint8, a kind below `num_kinds` for each key (say visual, sink, rest); their masses are returned.
        num_kinds: how many kinds there are.
    """

    q: mx.array
    k: mx.array | Packed
    v: mx.array | Packed
    scale: float
    mask: Mask = None
    gate: GateTerms | None = None
    window: int | None = None
    kinds: mx.array | None = None
    num_kinds: int = 0

    @property
    def sizes(self) -> tuple[int, int, int, int, int, int]:
        """B, H, Hk, Lq, Lk, d."""
        keys = self.k.codes if isinstance(self.k, Packed) else self.k
        batch, heads, num_queries, width = self.q.shape
        return batch, heads, keys.shape[1], num_queries, keys.shape[2], width

    @property
    def signature(self) -> tuple[Hashable, ...]:
        """Shapes, dtypes and settings: two requests with the same one differ in the numbers of their arrays only."""
        gate, mask = self.gate, self.mask
        return (
            self.q.shape,
            self.q.dtype,
            *(
                (x.codes.shape, x.bits, x.group_size) if isinstance(x, Packed) else (x.shape, x.dtype)
                for x in (self.k, self.v)
            ),
            mask.dtype if isinstance(mask, mx.array) else mask,
            None if gate is None else (gate.u.dtype, gate.v.dtype, gate.v.shape[-1], gate.squash, gate.raw is None),
            self.window is None,
            self.kinds is None,
            self.num_kinds,
        )

    @property
    def gate_width(self) -> int:
        """R; 0 without a gate."""
        return 0 if self.gate is None else self.gate.v.shape[-1]


def fused(request: Request, run: Run, tile: DecodeTile | PrefillTile | None = None) -> Result:
    """Compute one attention call that `coverage.shape_refusal` has no objection to.

    Args:
        request: the call.
        run: launches a kernel.
        tile: kernel and sizes in place of those that `choose_tile` takes.

    Raises:
        ValueError: for quantized keys with a prefill tile.
    """
    tile = tile or choose_tile(request)
    if isinstance(tile, DecodeTile):
        call = _decode(request, tile)
    elif isinstance(request.k, Packed):
        raise ValueError("the prefill kernel reads no quantized keys; dequantize them first")
    else:
        call = _prefill(request, tile)
    out, lse, *mass = run(call)
    batch, heads, _, num_queries, _, width = request.sizes
    if tile.splits > 1:
        out, lse, *mass = run(_merge(request, out, lse, mass))
    shape = (batch, heads, num_queries)
    masses = mass[0].reshape(*shape, request.num_kinds) if mass else None
    return Result(out.reshape(*shape, width), lse.reshape(shape), masses)


def choose_tile(request: Request) -> DecodeTile | PrefillTile:
    """The kernel and its sizes: few rows keep their queries in registers, many go through matrix tiles."""
    batch, heads, num_kv, num_queries, num_keys, width = request.sizes
    rows = heads // num_kv * num_queries
    if rows <= _FEW_ROWS or isinstance(request.k, Packed):
        return decode_tile(rows, width, request.gate_width, num_keys, batch * num_kv)
    feature = 0 if request.gate is None else request.gate.v.dtype.size
    sizes = (request.q.dtype.size, feature)
    return prefill_tile(rows, width, request.gate_width, sizes, num_keys, batch * num_kv)


def _decode(request: Request, tile: DecodeTile) -> Call:
    batch, heads, num_kv, num_queries, _, _ = request.sizes
    rows = heads // num_kv * num_queries
    packed = request.k if isinstance(request.k, Packed) else None
    sizes = [("RT", tile.rows), ("LPK", tile.lanes), ("NSG", tile.simdgroups)]
    return _call(
        request,
        Variant("decode", *_features(request), packed.bits if packed else 0, is_raw(request)),
        tile.splits,
        [*sizes, ("QG", packed.group_size if packed else 0)],
        (batch * num_kv * tile.simdgroups * 32, -(-rows // tile.rows), tile.splits),
        tile.simdgroups,
    )


def _prefill(request: Request, tile: PrefillTile) -> Call:
    batch, heads, num_kv, num_queries, _, _ = request.sizes
    rows = heads // num_kv * num_queries
    tiles = -(-rows // (8 * tile.simdgroups))
    return _call(
        request,
        Variant("prefill", *_features(request)),
        tile.splits,
        [("BK", tile.keys), ("NSG", tile.simdgroups)],
        (tiles * tile.simdgroups * 32, num_kv, batch * tile.splits),
        tile.simdgroups,
    )


def _call(
    request: Request,
    variant: Variant,
    splits: int,
    sizes: Sequence[tuple[str, Value]],
    grid: tuple[int, int, int],
    simdgroups: int,
) -> Call:
    """A launch of the decode or prefill kernel."""
    batch, heads, num_kv, num_queries, num_keys, width = request.sizes
    gate, dtype = request.gate, request.q.dtype
    parts = dtype if splits == 1 else mx.float32
    # Every dtype stands in the template: MLX caches CUDA kernels by name and template values alone.
    features = (dtype if variant.raw else gate.u.dtype, gate.v.dtype) if gate else (dtype, dtype)
    template: list[tuple[str, Value]] = [("T", dtype), ("FU", features[0]), ("F", features[1]), ("TO", parts)]
    template += [("D", width), ("R", request.gate_width), *sizes]
    template += [("PHI", _PHI[gate.squash] if gate else 0), ("NM", request.num_kinds)]
    inputs = [request.q, *_keys_and_values(request)]
    if gate is not None:
        slots = tuple(gate.groups.index(g) if g in gate.groups else -1 for g in range(num_kv))
        queries = [gate.raw.q, *gate.raw.query_map] if variant.raw and gate.raw else [gate.u]
        inputs += [*queries, gate.v, _integers(slots)]
    if isinstance(request.mask, mx.array):
        inputs.append(mx.broadcast_to(request.mask, (batch, heads, num_queries, num_keys)))
    if request.kinds is not None:
        inputs.append(mx.broadcast_to(request.kinds.astype(mx.uint8), (batch, num_keys)))
    first, last = gate.span if gate else (0, 0)
    inputs.append(_integers((int(isinstance(request.mask, str)), request.window or 0, first, last)))
    inputs.append(_numbers((request.scale * LOG2E, *_gate_constants(gate), EPS)))
    rows = (batch, heads, num_queries, splits)
    shapes = [(*rows, width), rows] + [(*rows, request.num_kinds)] * variant.mass
    dtypes = [parts, mx.float32] + [mx.float32] * variant.mass
    return Call(variant, inputs, template, grid, (simdgroups * 32, 1, 1), shapes, dtypes)


def _merge(request: Request, parts: mx.array, lses: mx.array, mass: Sequence[mx.array]) -> Call:
    splits, width = parts.shape[-2:]
    rows = parts.size // (splits * width)
    kinds = request.num_kinds
    inputs = [parts.reshape(rows, splits, width), lses.reshape(rows, splits)]
    inputs += [x.reshape(rows, splits, kinds) for x in mass]
    return Call(
        Variant("merge", mass=bool(mass)),
        inputs,
        [("TO", request.q.dtype), ("D", width), ("NM", kinds)],
        (width, rows, 1),
        (width, 1, 1),
        [(rows, width), (rows,)] + [(rows, kinds)] * bool(mass),
        [request.q.dtype, mx.float32] + [mx.float32] * bool(mass),
    )


def _keys_and_values(request: Request) -> list[mx.array]:
    k, v = request.k, request.v
    if isinstance(k, Packed) and isinstance(v, Packed):
        return [k.codes, v.codes, k.scales, k.biases, v.scales, v.biases]
    if isinstance(k, Packed) or isinstance(v, Packed):
        raise ValueError("keys and values must both be quantized or both be plain")
    return [k, v]


def _features(request: Request) -> tuple[bool, bool, bool]:
    """gate, mask, mass."""
    return request.gate is not None, isinstance(request.mask, mx.array), request.kinds is not None


def is_raw(request: Request) -> bool:
    """Whether the decode kernel computes the gate features of this request's queries itself."""
    return request.gate is not None and request.gate.raw is not None and not isinstance(request.k, Packed)


@lru_cache(maxsize=_CONSTANTS)
def _integers(values: tuple[int, ...]) -> mx.array:
    """The same for every token of an answer, and sent to the GPU once."""
    return mx.array(values, mx.int32)


@lru_cache(maxsize=_CONSTANTS)
def _numbers(values: tuple[float, ...]) -> mx.array:
    return mx.array(values, mx.float32)


def _gate_constants(gate: GateTerms | None) -> tuple[float, float]:
    """gate_in, gate_out: phi(x) * log2 e = squash(x * gate_in, gate_out), see common.metal."""
    if gate is None or gate.squash != "tanh":
        return LOG2E, 1.0
    return 2 * LOG2E / gate.limit, gate.limit * LOG2E
