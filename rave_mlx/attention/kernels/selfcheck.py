"""The kernels prove themselves on a machine before anything relies on them.

Their text is compiled by a driver that may be newer than this package. So the first call that needs a variant (these
dtypes, widths, mask, splits, quantization) runs it on a small random call and compares the result with the reference
path on the processor. A variant that cannot be built or launched, or is wrong, costs one warning and the next path,
not an answer.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

import mlx.core as mx

from rave_mlx.attention.gate import EPS, GateTerms, QueryMap, RawQueries, Squash
from rave_mlx.attention.kernels.fused import Packed, Request, Result, Run, choose_tile, fused, is_raw
from rave_mlx.attention.kernels.tuning import DecodeTile, PrefillTile
from rave_mlx.attention.masks import Mask, as_bool
from rave_mlx.attention.reference import full_scores, reference

TOLERANCES = {mx.float32: 1e-4, mx.float16: 1e-3, mx.bfloat16: 8e-3}
"""Relative L2 error of the output that is allowed for each dtype: several times the rounding of that dtype."""
_SUM_TOLERANCE = 1e-4
"""Error allowed for log-sum-exps (of their size, when above 1) and masses, which are float32 always."""
_BATCH, _KV_HEADS, _RATIO, _KEYS, _SPAN = 2, 2, 2, 150, (20, 90)
_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, OSError)
"""What MLX raises for a text that does not compile, a device that cannot run it or arguments it does not take; and what
a kernel text that is missing raises."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probe:
    """What of a request is compiled into its kernels, or leads them into other branches.

    Attributes:
        tile: kernel and sizes, with one split or, in place of any larger number, two.
        dtype: of queries, keys and values.
        width: head width.
        mask: None, "causal" or "boolean".
        window: whether there is a window.
        num_kinds: kinds of keys whose masses are wanted; 0 for none.
        squash: of the gate; None without one.
        gate_width: R; 0 without a gate.
        features: dtypes of the gate's u and v; empty without one.
        packed: bits and group size of quantized keys and values.
        raw: whether the kernel computes the gate features of the queries itself.
    """

    tile: DecodeTile | PrefillTile
    dtype: mx.Dtype
    width: int
    mask: str | None
    window: bool
    num_kinds: int
    squash: Squash | None
    gate_width: int
    features: tuple[mx.Dtype, ...]
    packed: tuple[int, int] | None
    raw: bool = False

    @classmethod
    def of(cls, request: Request) -> Probe:
        tile, gate, k = choose_tile(request), request.gate, request.k
        return cls(
            replace(tile, splits=min(tile.splits, 2)),
            request.q.dtype,
            request.q.shape[-1],
            "boolean" if isinstance(request.mask, mx.array) else request.mask,
            request.window is not None,
            request.num_kinds if request.kinds is not None else 0,
            None if gate is None else gate.squash,
            request.gate_width,
            () if gate is None else (gate.u.dtype, gate.v.dtype),
            (k.bits, k.group_size) if isinstance(k, Packed) else None,
            is_raw(request) and isinstance(tile, DecodeTile),
        )

    def __str__(self) -> str:
        words = ["decode" if isinstance(self.tile, DecodeTile) else "prefill", _name(self.dtype), f"width {self.width}"]
        words += [f"{self.squash} gate of {self.gate_width}"] if self.squash else ["no gate"]
        words += ["queries as they are"] * self.raw
        words += [f"{self.mask or 'no'} mask", *["window"] * self.window]
        words += [f"{self.num_kinds} kinds of keys"] * bool(self.num_kinds)
        words += [f"{self.packed[0]} bits in groups of {self.packed[1]}"] if self.packed else []
        return ", ".join([*words, f"{self.tile.splits} splits"] if self.tile.splits > 1 else words)


def self_check(run: Run, request: Request) -> str | None:
    """What is wrong with the kernels that `run` launches for a request; None when they are right."""
    return _checked(run, Probe.of(request))


@cache
def _checked(run: Run, probe: Probe) -> str | None:
    """Checked once for each variant, then remembered; so is the warning."""
    try:
        reason = _problem(run, probe)
    except _FAILURES as failure:
        first = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
        reason = f"it cannot run on this machine ({first})"
    if reason is not None:
        _log.warning("a fused attention kernel is off (%s): %s", probe, reason)
    return reason


def _problem(run: Run, probe: Probe) -> str | None:
    """Run a probe and compare."""
    with mx.stream(mx.cpu):
        request, exact = _draw(probe)
        right = _expected(exact)
        mx.eval(right.out, right.lse)
    found = fused(request, run, probe.tile)
    mx.eval(found.out, found.lse)
    with mx.stream(mx.cpu):
        errors = _errors(found, right)
    # NaN compares false, so it counts as wrong.
    wrong = [f"{name} {error:.1e}" for name, error, most in errors if not error <= most]
    return f"it is wrong on this machine (relative error of the {', '.join(wrong)})" if wrong else None


def _draw(probe: Probe) -> tuple[Request, Request]:
    """A random call of a variant, and the one it stands for: the same stored values in float32, not quantized.

    A few rows more than one tile takes; two KV heads, one of them gated; keys and values as views of longer arrays,
    as a growing cache gives them; under a boolean mask a query that sees no key.
    """
    key = mx.random.key(0)

    def normal(*shape: int, dtype: mx.Dtype = probe.dtype) -> mx.array:
        nonlocal key
        key, now = mx.random.split(key)
        return mx.random.normal(shape, key=now).astype(dtype)

    rows = probe.tile.rows if isinstance(probe.tile, DecodeTile) else 8 * probe.tile.simdgroups
    num_queries = rows // _RATIO + 2
    q = normal(_BATCH, _KV_HEADS * _RATIO, num_queries, probe.width)
    k, v = (normal(_BATCH, _KV_HEADS, _KEYS + 6, probe.width)[:, :, :_KEYS] for _ in range(2))
    gate = None
    if probe.squash is not None:
        u, raw = normal(_BATCH, _RATIO, num_queries, probe.gate_width, dtype=probe.features[0]), None
        if probe.raw:
            project = normal(_RATIO, probe.width, probe.gate_width, dtype=mx.float32) * probe.width**-0.5
            offset = normal(_RATIO, 1, probe.gate_width, dtype=mx.float32)
            raw = RawQueries(normal(_BATCH, _RATIO, num_queries, probe.width), QueryMap(project, offset))
            u = mx.fast.rms_norm(raw.q.astype(mx.float32), None, EPS) @ project + offset
        inside = (mx.arange(_KEYS) >= _SPAN[0]) & (mx.arange(_KEYS) < _SPAN[1])
        w = normal(_BATCH, 1, _KEYS, probe.gate_width, dtype=probe.features[1])
        gate = GateTerms(u, w * inside[:, None].astype(w.dtype), (1,), _SPAN, probe.squash, raw=raw)
    mask: Mask = "causal" if probe.mask == "causal" else None
    if probe.mask == "boolean":
        mask = (normal(_BATCH, 1, num_queries, _KEYS, dtype=mx.float32) < 0.5) & (mx.arange(num_queries) > 0)[:, None]
    kinds = None
    if probe.num_kinds:
        kinds = mx.broadcast_to(mx.arange(_KEYS) % probe.num_kinds, (_BATCH, _KEYS)).astype(mx.uint8)
    window = _KEYS // 3 if probe.window else None
    exact = Request(q, k, v, probe.width**-0.5, mask, gate, window, kinds, probe.num_kinds)
    if probe.packed is None:
        return exact, exact
    bits, size = probe.packed
    packed = [Packed(*mx.quantize(x, size, bits), size, bits) for x in (k, v)]
    wide = [
        mx.dequantize(x.codes, x.scales.astype(mx.float32), x.biases.astype(mx.float32), size, bits) for x in packed
    ]
    return replace(exact, k=packed[0], v=packed[1]), replace(exact, k=wide[0], v=wide[1])


def _expected(request: Request) -> Result:
    """What a request with plain keys gives, in float32."""
    assert isinstance(request.k, mx.array)
    assert isinstance(request.v, mx.array)
    q, k, v = (x.astype(mx.float32) for x in (request.q, request.k, request.v))
    gate = request.gate
    if gate is not None:
        gate = replace(gate, u=gate.u.astype(mx.float32), v=gate.v.astype(mx.float32))
    allowed = as_bool(request.mask, q.shape[2], _KEYS)
    if request.window is not None:
        positions = mx.arange(_KEYS - q.shape[2], _KEYS)[:, None]
        inside = mx.arange(_KEYS) > positions - request.window
        allowed = inside if allowed is None else allowed & inside
    scores = full_scores(q, k, scale=request.scale, gate=gate)
    if allowed is not None:
        scores = mx.where(allowed, scores, -mx.inf)
    out = reference(q, k, v, scale=request.scale, mask=allowed, gate=gate)
    if request.kinds is None:
        return Result(out, mx.logsumexp(scores, axis=-1), None)
    marks = (request.kinds[:, None, :, None] == mx.arange(request.num_kinds)).astype(mx.float32)
    marks = mx.broadcast_to(marks, (*k.shape[:3], request.num_kinds))
    mass = reference(q, k, marks, scale=request.scale, mask=allowed, gate=gate)
    return Result(out, mx.logsumexp(scores, axis=-1), mass)


def _errors(found: Result, right: Result) -> list[tuple[str, float, float]]:
    """Name, error and allowed error of every part of a result."""
    tolerance = TOLERANCES[found.out.dtype]
    errors = [("output", _norm(found.out.astype(mx.float32) - right.out) / _norm(right.out), tolerance)]
    # A query without a key: -inf on both sides, whose difference is no number.
    neither = mx.isinf(found.lse) & mx.isinf(right.lse)
    size = mx.maximum(mx.abs(right.lse), 1.0)
    error = mx.max(mx.where(neither, 0.0, mx.abs(found.lse - right.lse) / size))
    errors.append(("log-sum-exp", _number(error), _SUM_TOLERANCE))
    if found.mass is not None and right.mass is not None:
        errors.append(("masses", _number(mx.max(mx.abs(found.mass - right.mass))), _SUM_TOLERANCE))
    return errors


def _norm(x: mx.array) -> float:
    return _number(mx.sqrt(mx.sum(mx.square(x))))


def _number(x: mx.array) -> float:
    return float(cast(float, x.item()))


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")
