"""What attention policies cost: prefill and decode of each beside none, on one model in one run.

    python benchmarks/policies.py                          # the built-in model and a random one of 160 M parameters
    python benchmarks/policies.py --attention var:cosine rave+var:cosine

Prefills and single tokens are interleaved (none, first policy, second policy, none, ...) and the fastest of each
counts, so that what else the machine does falls on all of them; where it is busy, the ratio of processor time (CPU) is
the steadier one. Prefill is a page of visual tokens, its features known already, and a question; what a policy plans
for a prompt counts, what it learns about the model once does not. Ratios are over none; memory is MLX's peak in a
prefill above what was held before.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import checkpoint
import mlx.core as mx
from PIL import Image

import rave_mlx
from rave_mlx.attention.policies.parse import steering
from rave_mlx.attention.policies.registry import POLICIES
from rave_mlx.cache import Cache
from rave_mlx.errors import UsageError
from rave_mlx.generation import encode, prefill, step
from rave_mlx.models.lmm import LMM
from rave_mlx.prompt import Prompt

INF = float("inf")
QUESTION = "What is the total of this page, and who wrote it?"
MODELS = ("built-in", "random 160 M")
FIRST = {"built-in": ("rave", "var:cosine", "rave+var:cosine"),
         "random 160 M": ("var:dims=3/14,tau=2.5", "var:released,dims=3/14,tau=2.5", "var:cosine")}  # fmt: skip
"""A random model has no sink dimensions, so two are named, with a threshold that some tokens reach."""


@dataclass
class Cost:
    """The fastest prefill and the fastest decoded token, by the clock and by the processors' time, in seconds; the peak
    bytes of a prefill."""

    prefill: tuple[float, float] = (INF, INF)
    decode: tuple[float, float] = (INF, INF)
    peak: int = 0


def timed(work: Callable[[], mx.array], best: tuple[float, float]) -> tuple[float, float]:
    """Seconds by the clock and by the processors' time, or the best so far where those are less."""
    clock, cpu = time.perf_counter(), time.process_time()
    mx.eval(work())
    return min(best[0], time.perf_counter() - clock), min(best[1], time.process_time() - cpu)


def read(lmm: LMM, prompt: Prompt, features: dict[str, mx.array], attention: str, cost: Cost) -> Cache:
    """One timed prefill; returns the cache."""
    chosen = steering(attention)
    cache = lmm.make_cache(gate=chosen.gate, policies=chosen.policies)
    if cache.run is not None:
        cache.run.prepare(lmm)
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    cost.prefill = timed(lambda: prefill(lmm, prompt, cache, features=features), cost.prefill)
    cost.peak = max(cost.peak, mx.get_peak_memory() - held)
    return cache


def accepts(lmm: LMM, attention: str) -> bool:
    """Whether the model takes a policy; else its reason is printed."""
    try:
        lmm.make_run(steering(attention).policies)
    except UsageError as error:
        print(error)
        return False
    return True


def one_step(lmm: LMM, cache: Cache, count: int, position: int) -> mx.array:
    """Logits after one more token."""
    return step(lmm, cache, mx.array([20 + count % 200]), position)


def compare(name: str, lmm: LMM, attentions: Sequence[str], rounds: int, tokens: int) -> None:
    """Print the table of one model."""
    side = 16 if name == "built-in" else 28
    page = Image.fromarray(checkpoint.page(31 * side, 32 * side))
    content = [{"type": "image", "image": page}, {"type": "text", "text": QUESTION}]
    prompt = lmm.prepare([{"role": "user", "content": content}])
    features = {image.digest: encode(lmm, image) for image in prompt.images}
    costs = {attention: Cost() for attention in ["none", *attentions] if accepts(lmm, attention)}
    for _ in range(rounds):
        caches = {attention: read(lmm, prompt, features, attention, cost) for attention, cost in costs.items()}
    first = prompt.token_map.next_position
    for count in range(tokens):
        for attention, cost in costs.items():
            cost.decode = timed(partial(one_step, lmm, caches[attention], count, first + count), cost.decode)
    print(f"\n{name}: {len(prompt)} tokens, {prompt.visual_tokens} visual; best of {rounds} and of {tokens} tokens")
    print(
        f"{'':34} {'prefill':>8} {'ratio':>6} {'CPU':>5} {'token':>8} {'ratio':>6} {'CPU':>5} {'peak':>8} {'ratio':>6}"
    )
    base = costs["none"]
    for attention, cost in costs.items():
        read_ratio, read_cpu = (a / b for a, b in zip(cost.prefill, base.prefill, strict=True))
        ratio, cpu = (a / b for a, b in zip(cost.decode, base.decode, strict=True))
        print(
            f"{attention:34} {cost.prefill[0]:6.2f} s {read_ratio:6.2f} {read_cpu:5.2f} {1e3 * cost.decode[0]:5.1f} ms "
            f"{ratio:6.2f} {cpu:5.2f} {cost.peak / 1e6:5.0f} MB {cost.peak / base.peak:6.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attention", nargs="+", help="policies to compare with none; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--model", choices=MODELS, help="only this one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS if args.model is None else [args.model]:
            lmm = rave_mlx.load() if name == "built-in" else rave_mlx.load(checkpoint.build(Path(folder) / "model"))
            others = [policy for policy in POLICIES if policy not in ("var", "mma")]
            compare(name, lmm, args.attention or [*FIRST[name], "mma:force=true", *others], args.rounds, args.tokens)


if __name__ == "__main__":
    main()
