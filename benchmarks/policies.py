"""What attention policies cost: reading, writing and memory of each beside none, in one run.

    python benchmarks/policies.py                          # the built-in model and a random one of 160 M parameters
    python benchmarks/policies.py --attention var:cosine rave+var:cosine
    python benchmarks/policies.py --families               # VAR on a random model of every family (families.py)

Readings and bursts of written tokens are taken in turns (none, first policy, second policy, none, ...), so that what
else the machine does falls on all of them. Times are the fastest; "× none" is the ratio of these, "CPU" the median over
the turns of the ratio of processor times to none's in the same turn, the steadier one on a busy machine. Reading is a
page of visual tokens, its features known already, and a question; what a policy plans for a prompt counts (for
vflowopt, the vision tower), what it learns about the model once does not. The next token is queued before one is taken,
as in a chat. Memory is MLX's peak in a reading above what was held before. Output is a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import checkpoint
import families
import mlx.core as mx
import numpy as np
from PIL import Image

import rave_mlx
from rave_mlx.errors import UsageError
from rave_mlx.generation.decode import step
from rave_mlx.generation.encoding import encode
from rave_mlx.generation.prefill import prefill
from rave_mlx.inputs.prompt.message import Message
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.parse import steering
from rave_mlx.policies.registry import POLICIES
from rave_mlx.policies.rereading.policy import RereadingPolicy
from rave_mlx.policies.runtime import attach

QUESTION = "What is the total of this page, and who wrote it?"
BURST = 4
"""Written tokens that are timed together."""
MODELS = ("built-in", "random 160 M")
SINKS = "dims=3/14,tau=2.5"
"""A random model has no sink dimensions, so two are named, with a threshold that some tokens reach."""
FIRST = {"built-in": ("rave", "var:cosine", "rave+var:cosine"),
         "random 160 M": (f"var:{SINKS}", f"var:released,{SINKS}", "var:cosine")}  # fmt: skip
APART = ("var", "mma", "carve", "funnel", "guidance")
"""Policies that are not in the default list: given with settings, or several readings long."""


@dataclass
class Cost:
    """What every reading and every written token took, by the clock and by the processors' time, in seconds; the peak
    bytes of a reading."""

    reading: list[tuple[float, float]] = field(default_factory=list)
    writing: list[tuple[float, float]] = field(default_factory=list)
    peak: int = 0


def timed(work: Callable[[], object], count: int = 1) -> tuple[float, float]:
    """Seconds by the clock and by the processors' time for one of `count`."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - clock) / count, (time.process_time() - cpu) / count


def read(
    lmm: LMM, messages: Sequence[Message], features: Mapping[str, mx.array], attention: str, cost: Cost
) -> tuple[Prompt, Cache]:
    """One timed reading.

    Args:
        lmm: the model.
        messages: a page and a question.
        features: of the page's image, known already.
        attention: a policy as --attention names it.
        cost: takes the times and the peak memory.

    Returns:
        The prompt that was read (a policy may have changed it), and the cache.
    """
    chosen = steering(attention)
    runtime = attach(lmm, chosen.policies)
    cache = lmm.make_cache(gate=chosen.gate, hooks=runtime)
    if runtime is not None:
        runtime.prepare()
    found = [lmm.prompt(messages)]
    revising = [policy for policy in chosen.policies if isinstance(policy, RereadingPolicy)]

    def work() -> None:
        known, shown = dict(features), messages
        for policy in revising:
            shown = policy.revise(lmm, shown, chosen.gate, known)
            found[0] = lmm.prompt(shown)
        mx.eval(prefill(lmm, found[0], cache, features=known))

    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    cost.reading.append(timed(work))
    cost.peak = max(cost.peak, mx.get_peak_memory() - held)
    return found[0], cache


def accepts(lmm: LMM, attention: str) -> bool:
    """Whether the model takes a policy; else its reason is printed."""
    try:
        attach(lmm, steering(attention).policies)
    except UsageError as error:
        print(error)
        return False
    return True


def write(lmm: LMM, prompt: Prompt, cache: Cache, count: int) -> None:
    """Write tokens, the next one queued before one is taken, and forget them.

    Args:
        lmm: the model.
        prompt: that was read.
        cache: of the reading; as it was before afterwards.
        count: of tokens.
    """
    token = mx.array([20])
    for index in range(count):
        following = mx.argmax(step(lmm, cache, token, prompt.token_map.next_position + index), axis=-1)
        mx.async_eval(following)
        np.asarray(token)
        token = following
    np.asarray(token)
    cache.trim(len(prompt))


def compare(
    name: str, lmm: LMM, page: tuple[int, int], attentions: Sequence[str], rounds: int, bursts: int
) -> list[str]:
    """Measure one model; returns the rows of its table.

    Args:
        name: of the model, for the table.
        lmm: the model.
        page: its width and height in pixels.
        attentions: policies to compare with none.
        rounds: readings with each.
        bursts: how often tokens are written with each.
    """
    image = Image.fromarray(checkpoint.page(*page))
    content = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    messages = read_messages([{"role": "user", "content": content}], lmm.config.image)
    prompt = lmm.prompt(messages)
    features = {image.digest: encode(lmm, image) for image in prompt.images}
    costs = {attention: Cost() for attention in ["none", *attentions] if accepts(lmm, attention)}
    for _ in range(rounds):
        read_now = {attention: read(lmm, messages, features, attention, cost) for attention, cost in costs.items()}
    for _ in range(bursts):
        for attention, cost in costs.items():
            cost.writing.append(timed(partial(write, lmm, *read_now[attention], BURST), BURST))
    base = costs["none"]
    rows = []
    for attention, cost in costs.items():
        first = f"{name}, {prompt.visual_tokens} visual tokens" if cost is base else ""
        reading, writing = cells(cost.reading, base.reading, 0), cells(cost.writing, base.writing, 2)
        rows.append(f"| {first} | `{attention}` | {reading} | {writing} | {cost.peak / 1e6:.0f} MB |")
        print(rows[-1], flush=True)
    return rows


def cells(cost: Sequence[tuple[float, float]], base: Sequence[tuple[float, float]], digits: int) -> str:
    """The fastest time, its ratio over none's, and the median ratio of processor times.

    Args:
        cost: clock and processor seconds of each turn.
        base: those of none in the same turns.
        digits: decimals of the time.
    """
    fastest, least = (min(clock for clock, _ in times) for times in (cost, base))
    cpu = statistics.median(spent / other for (_, spent), (_, other) in zip(cost, base, strict=True))
    return f"{1e3 * fastest:.{digits}f} ms | {fastest / least:.2f} | {cpu:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attention", nargs="+", help="policies to compare with none; default: all, VAR for families")
    parser.add_argument("--rounds", type=int, default=5, help="readings of each")
    parser.add_argument("--bursts", type=int, default=16, help=f"times that {BURST} tokens are written with each")
    parser.add_argument("--model", choices=[*MODELS, *families.SHAPES], help="only this one")
    parser.add_argument("--families", action="store_true", help="a random model of every family")
    args = parser.parse_args()
    names = [args.model] if args.model else list(families.SHAPES if args.families else MODELS)
    print("| model | policy | reading | × none | CPU | a written token | × none | CPU | peak |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            others = ["mma:force=true", *(policy for policy in POLICIES if policy not in APART)]
            if name in families.SHAPES:
                lmm, page = families.build(families.SHAPES[name], Path(folder) / name), families.SHAPES[name].page
                chosen = args.attention or [f"var:{SINKS}", f"var:released,{SINKS}"]
            else:
                built_in = name == "built-in"
                lmm = rave_mlx.load(None if built_in else checkpoint.build(Path(folder) / "model"))
                page = (13 * 16, 21 * 16) if built_in else (868, 896)
                chosen = args.attention or [*FIRST[name], *others]
            compare(name, lmm, page, chosen, args.rounds, args.bursts)
            del lmm


if __name__ == "__main__":
    main()
