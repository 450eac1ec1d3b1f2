"""Gated attention against stock attention: time, peak memory, and the ratio to attention without a gate.

Prefill is L queries over L keys, causal; decode is one query over L keys. Half of the keys are visual, half of the KV
heads gated. Contenders of one row run in turn, so that a busy machine slows them all:

  stock         fused attention without any bias: what the gate is measured against
  materialized  the bias of every head, query and key as an additive mask of stock attention
  fold          the linear gate (phi = identity) as extra head dimensions of stock attention
  gated         what `attend` does with a tanh gate here: the fused kernel on Metal and CUDA, query blocks on a CPU
  gated, text   the same path for a prompt without an image

With --gradient: one gradient of all inputs, by autograd of the explicit form, of the blocks, and by the train path.

    python benchmarks/attention.py [--phases decode] [--lengths 1024 4096] [--widths 64 128] [--gradient] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.attention import GateTerms, Path, attend, choose_path
from rave_mlx.attention.fold import fold
from rave_mlx.attention.kernels.fused import Request
from rave_mlx.attention.reference import full_bias

RANK = 16

Run = Callable[[], list[mx.array]]


@dataclass(frozen=True)
class Row:
    """One contender at one size: median milliseconds, peak MiB above the inputs, time over that of `base`."""

    phase: str
    width: int
    length: int
    name: str
    ms: float | None
    mib: float | None
    ratio: float | None


@dataclass(frozen=True)
class Size:
    """One case: phase "prefill", "decode" or "gradient"."""

    phase: str
    width: int
    length: int
    heads: int
    kv_heads: int
    dtype: mx.Dtype

    @property
    def bias_bytes(self) -> int:
        """Of the materialized bias."""
        queries = 1 if self.phase == "decode" else self.length
        return self.heads * queries * self.length * self.dtype.size


@dataclass(frozen=True)
class Inputs:
    """Arrays of one attention call, as `attend` takes them."""

    q: mx.array
    k: mx.array
    v: mx.array
    gate: GateTerms
    scale: float


def draw(size: Size) -> Inputs:
    """Random inputs; the first half of the KV heads is gated, the middle half of the keys visual."""
    mx.random.seed(0)
    queries = 1 if size.phase == "decode" else size.length
    gated = max(1, size.kv_heads // 2)
    ratio = size.heads // size.kv_heads
    span = (size.length // 4, 3 * size.length // 4)
    marks = ((mx.arange(size.length) >= span[0]) & (mx.arange(size.length) < span[1]))[:, None]

    def normal(*shape: int, dtype: mx.Dtype = size.dtype) -> mx.array:
        return mx.random.normal(shape).astype(dtype)

    gate = GateTerms(
        normal(1, gated * ratio, queries, RANK, dtype=mx.float32),
        mx.where(marks, normal(1, gated, size.length, RANK, dtype=mx.float32), 0.0),
        tuple(range(gated)),
        span,
    )
    k, v = (normal(1, size.kv_heads, size.length, size.width) for _ in range(2))
    made = Inputs(normal(1, size.heads, queries, size.width), k, v, gate, size.width**-0.5)
    mx.eval(made.q, k, v, gate.u, gate.v)
    return made


def materialized(x: Inputs) -> mx.array:
    """Stock attention with the whole bias as its mask."""
    num_queries, num_keys = x.q.shape[2], x.k.shape[2]
    bias = full_bias(x.gate, x.q.shape[1], x.k.shape[1])
    rows = mx.arange(num_keys - num_queries, num_keys)[:, None]
    bias = mx.where(rows >= mx.arange(num_keys), bias, -mx.inf).astype(x.q.dtype)
    return mx.fast.scaled_dot_product_attention(x.q, x.k, x.v, scale=x.scale, mask=bias)


def contenders(size: Size, limit: int) -> dict[str, Run | None]:
    """What runs at a size; None for what would need more than `limit` bytes."""
    x = draw(size)
    q, k, v, scale = x.q, x.k, x.v, x.scale
    linear = replace(x.gate, squash="identity")
    text = replace(x.gate, v=mx.zeros_like(x.gate.v), span=(0, 0))
    fits = 3 * size.bias_bytes <= limit
    stock_fits = fits or backend.current().kind != "cpu"  # on a CPU stock attention keeps every score too
    paths = [choose_path(Request(q, k, v, scale, "causal", gate)) for gate in (x.gate, None)]

    def stock() -> list[mx.array]:
        return [mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal")]

    return {
        "stock": stock if stock_fits else None,
        "materialized": (lambda: [materialized(x)]) if fits else None,
        "fold": (lambda: [fold(q, k, v, scale=scale, mask="causal", gate=linear)]) if stock_fits else None,
        f"gated ({paths[0]})": lambda: [attend(q, k, v, scale=scale, mask="causal", gate=x.gate)],
        f"gated, text ({paths[1]})": lambda: [attend(q, k, v, scale=scale, mask="causal", gate=text)],
    }


def gradients(size: Size, limit: int) -> dict[str, Run | None]:
    """One gradient of q, k, v, u and w by each path."""
    x = draw(size)
    weight = mx.random.normal(x.q.shape).astype(size.dtype)
    mx.eval(weight)

    def run(path: Path) -> Run:
        def loss(q: mx.array, k: mx.array, v: mx.array, u: mx.array, w: mx.array) -> mx.array:
            gate = replace(x.gate, u=u, v=w)
            return mx.sum(attend(q, k, v, scale=x.scale, mask="causal", gate=gate, path=path) * weight)

        grad = mx.grad(loss, (0, 1, 2, 3, 4))
        return lambda: list(grad(x.q, x.k, x.v, x.gate.u, x.gate.v))

    fits = 10 * size.heads * size.length**2 * 4 <= limit
    return {
        "autograd, explicit": run("reference") if fits else None,
        "autograd, blocks": run("chunked"),
        "train": run("train"),
    }


def measure(functions: dict[str, Run | None], repeats: int) -> dict[str, tuple[float, float] | None]:
    """Median seconds and peak bytes above the inputs; the functions take turns."""
    times: dict[str, list[float]] = {name: [] for name, f in functions.items() if f}
    peaks = dict.fromkeys(times, 0)
    for turn in range(repeats + 1):
        for name, function in functions.items():
            if function is None:
                continue
            mx.clear_cache()
            mx.reset_peak_memory()
            before, start = mx.get_active_memory(), time.perf_counter()
            mx.eval(function())
            if turn:  # the first turn compiles and warms up
                times[name].append(time.perf_counter() - start)
            peaks[name] = max(peaks[name], mx.get_peak_memory() - before)
    return {n: (statistics.median(times[n]), peaks[n]) if n in times else None for n in functions}


def table(size: Size, measured: dict[str, tuple[float, float] | None], base: str) -> list[Row]:
    """Rows of a size: times, memory, and time over that of one contender.

    Args:
        size: what was measured.
        measured: seconds and bytes of each contender; None where it did not fit.
        base: the contender whose time is 1.
    """
    rows = []
    unit = measured[base]
    for name, found in measured.items():
        ratio = found[0] / unit[0] if found and unit else None
        ms, mib = (found[0] * 1e3, found[1] / 2**20) if found else (None, None)
        rows.append(Row(size.phase, size.width, size.length, name, ms, mib, ratio))
    return rows


def show(rows: list[Row]) -> None:
    """Print rows as they come."""

    def number(x: float | None, digits: int) -> str:
        return "does not fit" if x is None else f"{x:.{digits}f}"

    for row in rows:
        cells = [number(row.ms, 2), number(row.mib, 1), "" if row.ratio is None else f"{row.ratio:.2f}"]
        print(f"{row.phase:8} {row.width:4} {row.length:6}  {row.name:22} " + " ".join(f"{c:>12}" for c in cells))
    print(flush=True)


def main() -> None:
    backend.prepare()
    gpu = backend.current().kind != "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", nargs="+", default=["prefill", "decode"], choices=["prefill", "decode"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, *([8192, 16384] if gpu else [])])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--heads", type=int, default=28 if gpu else 8)
    parser.add_argument("--kv-heads", type=int, default=4 if gpu else 2)
    parser.add_argument("--dtype", default="float16" if gpu else "float32", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=20 if gpu else 3)
    parser.add_argument("--limit-gb", type=float, default=8.0, help="skip what needs more memory than this")
    parser.add_argument("--gradient", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    limit = int(options.limit_gb * 2**30)
    rows: list[Row] = []
    if not options.json:
        print(f"{backend.current().kind}, {options.dtype}, {options.heads} heads, {options.kv_heads} KV heads")
        print(f"{'phase':8} {'d':>4} {'L':>6}  {'':22} " + " ".join(f"{c:>12}" for c in ("ms", "peak MiB", "ratio")))
    for phase in ["gradient"] if options.gradient else options.phases:
        for width in options.widths:
            for length in options.lengths:
                size = Size(phase, width, length, options.heads, options.kv_heads, getattr(mx, options.dtype))
                made = gradients(size, limit) if options.gradient else contenders(size, limit)
                found = table(size, measure(made, options.repeats), "train" if options.gradient else "stock")
                rows += found
                if not options.json:
                    show(found)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
