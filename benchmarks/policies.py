"""What attention policies cost: prefill and decode of each beside none, on one model in one run.

    python benchmarks/policies.py                          # the built-in model and a random one of 160 M parameters
    python benchmarks/policies.py --attention var:cosine rave+var:cosine

Prefills and single tokens are interleaved (none, first policy, second policy, none, ...) and the fastest of each
counts, so that what else the machine does falls on all of them. Prefill is a page of visual tokens, its features known
already, and a question. Ratios are over none; memory is MLX's peak in a prefill above what was held before.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import checkpoint
import mlx.core as mx
from PIL import Image

import rave_mlx
from rave_mlx.attention.policies.parse import steering
from rave_mlx.cache import Cache
from rave_mlx.generation import encode, prefill, step
from rave_mlx.models.lmm import LMM
from rave_mlx.prompt import Prompt

QUESTION = "What is the total of this page, and who wrote it?"
DEFAULT = {
    "built-in": ("var:cosine", "rave", "rave+var:cosine"),
    "random 160 M": ("var:dims=3/14,tau=2.5", "var:released,dims=3/14,tau=2.5", "var:cosine"),
}
"""A random model has no sink dimensions, so two are named, with a threshold that some tokens reach."""


@dataclass
class Cost:
    """The fastest prefill and the fastest decoded token in seconds, and the peak bytes of a prefill."""

    prefill: float = float("inf")
    decode: float = float("inf")
    peak: int = 0


def read(lmm: LMM, prompt: Prompt, features: dict[str, mx.array], attention: str, cost: Cost) -> Cache:
    """One timed prefill; returns the cache."""
    chosen = steering(attention)
    cache = lmm.make_cache(gate=chosen.gate, policies=chosen.policies)
    if cache.run is not None:
        cache.run.plan(lmm, [prompt], features)  # looks at the model, once a conversation
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    start = time.perf_counter()
    mx.eval(prefill(lmm, prompt, cache, features=features))
    cost.prefill = min(cost.prefill, time.perf_counter() - start)
    cost.peak = max(cost.peak, mx.get_peak_memory() - held)
    return cache


def compare(name: str, lmm: LMM, attentions: Sequence[str], rounds: int, tokens: int) -> None:
    """Print the table of one model."""
    side = 16 if name == "built-in" else 28
    page = Image.fromarray(checkpoint.page(31 * side, 32 * side))
    content = [{"type": "image", "image": page}, {"type": "text", "text": QUESTION}]
    prompt = lmm.prepare([{"role": "user", "content": content}])
    features = {image.digest: encode(lmm, image) for image in prompt.images}
    costs = {attention: Cost() for attention in ["none", *attentions]}
    for _ in range(rounds):
        caches = {attention: read(lmm, prompt, features, attention, cost) for attention, cost in costs.items()}
    first = prompt.token_map.next_position
    for count in range(tokens):
        for attention, cost in costs.items():
            start = time.perf_counter()
            mx.eval(step(lmm, caches[attention], mx.array([20 + count]), first + count))
            cost.decode = min(cost.decode, time.perf_counter() - start)
    print(f"\n{name}: {len(prompt)} tokens, {prompt.visual_tokens} visual; best of {rounds} and of {tokens} tokens")
    print(f"{'attention':34} {'prefill s':>10} {'ratio':>6} {'token ms':>9} {'ratio':>6} {'peak MB':>8} {'ratio':>6}")
    base = costs["none"]
    for attention, cost in costs.items():
        print(
            f"{attention:34} {cost.prefill:10.3f} {cost.prefill / base.prefill:6.2f} {1e3 * cost.decode:9.2f} "
            f"{cost.decode / base.decode:6.2f} {cost.peak / 1e6:8.1f} {cost.peak / base.peak:6.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attention", nargs="+", help="policies to compare with none, on both models")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--model", choices=list(DEFAULT), help="only this one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, policies in DEFAULT.items():
            if args.model in (None, name):
                lmm = rave_mlx.load() if name == "built-in" else rave_mlx.load(checkpoint.build(Path(folder) / "model"))
                compare(name, lmm, args.attention or policies, args.rounds, args.tokens)


if __name__ == "__main__":
    main()
