"""Piles of documents: answers that are written together beside one after the other, in one run.

    python benchmarks/documents.py [batch] [--rows 8] [--rounds 3]

`batch`: eight pages of 992 visual tokens and a question each, read by a random model of 160 M parameters in float32; 33
greedy tokens of each answer are written one answer after the other (`generation.decode`) and together
(`generation.batch`), from the same caches, in turns. The ids have to be equal. Beside throughput it says what the keys
and values take, and MLX's peak memory of either way above the weights.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import checkpoint
import mlx.core as mx
from PIL import Image

import rave_mlx
from rave_mlx.generation.answer_row import AnswerRow
from rave_mlx.generation.batch import Batch
from rave_mlx.generation.decode import decode
from rave_mlx.generation.job import Job
from rave_mlx.generation.prefill import prefill
from rave_mlx.generation.prefix_store import fork
from rave_mlx.generation.sampling import Sampling
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.lmm import LMM

TOKENS = 33
"""Tokens of an answer; the first comes with the prompt, and is not timed."""
Read = list[tuple[Job, Cache, mx.array]]
"""Jobs, the caches of their prompts, and the logits (1, vocab) after them."""


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="|".join(SECTIONS), help="all unless named")
    parser.add_argument("--rows", type=int, default=8, help="pages that are written together")
    parser.add_argument("--rounds", type=int, default=3, help="how often both ways are timed; the median counts")
    options = parser.parse_args()
    for name in options.sections or SECTIONS:
        print(f"# {name}")
        SECTIONS[name](options)


def batch(options: argparse.Namespace) -> None:
    """Answers to several pages, one after the other and together."""
    with tempfile.TemporaryDirectory() as folder:
        lmm = rave_mlx.load(checkpoint.build(Path(folder) / "random-160m"))
    weights = mx.get_active_memory()
    start = time.perf_counter()
    read = read_pages(lmm, options.rows)
    print(f"{options.rows} pages of {len(read[0][0].prompt)} tokens read in {time.perf_counter() - start:.1f} s")
    print(f"keys and values: {sum(cache.nbytes for _, cache, _ in read) / 1e6:.0f} MB")
    found: dict[str, list[list[int]]] = {}
    seconds: dict[str, list[float]] = {"one after the other": [], "together": []}
    peaks: dict[str, int] = {}
    for _ in range(options.rounds):
        for name, way in (("one after the other", one_by_one), ("together", together)):
            mx.reset_peak_memory()
            ids, spent = way(lmm, read)
            peaks[name] = max(peaks.get(name, 0), mx.get_peak_memory() - weights)
            seconds[name].append(spent)
            assert found.setdefault("ids", ids) == ids, "the answers differ"
    tokens = options.rows * (TOKENS - 1)
    for name, spent in seconds.items():
        print(f"{name:20s} {tokens / statistics.median(spent):7.1f} tokens/s   peak {peaks[name] / 1e6:6.0f} MB")
    ratios = [one / many for one, many in zip(*seconds.values(), strict=True)]
    print(f"together: x{statistics.median(ratios):.2f} ({', '.join(f'x{ratio:.2f}' for ratio in ratios)}); ids equal")


def read_pages(lmm: LMM, count: int) -> Read:
    """Different pages with a question each, read."""
    read = []
    for number in range(count):
        image = Image.fromarray(checkpoint.page(seed=number))
        content = [{"type": "image", "image": image}, {"type": "text", "text": f"What is item {number}?"}]
        prompt, cache = lmm.prepare([{"role": "user", "content": content}]), lmm.make_cache()
        logits = prefill(lmm, prompt, cache)
        read.append((Job(prompt, max_tokens=TOKENS, ends_loops=False), cache, logits))
    return read


def one_by_one(lmm: LMM, read: Read) -> tuple[list[list[int]], float]:
    """The answers' ids, and the seconds after their first tokens."""
    found, spent = [], 0.0
    for job, cache, logits in read:
        written = decode(lmm, job.prompt, fork(cache, cache.length), logits, Sampling(), max_tokens=TOKENS)
        ids = [next(written)]
        start = time.perf_counter()
        ids += written
        spent += time.perf_counter() - start
        found.append(ids)
    return found, spent


def together(lmm: LMM, read: Read) -> tuple[list[list[int]], float]:
    """The same, of a batch."""
    rows, many = [], Batch(lmm)
    for ticket, (job, cache, logits) in enumerate(read):
        rows.append(AnswerRow(lmm, job, ticket))
        rows[-1].begin(logits)
        many.join(rows[-1], cache)
    start = time.perf_counter()
    while many.rows:
        many.advance()
    return [row.ids for row in rows], time.perf_counter() - start


SECTIONS: dict[str, Callable[[argparse.Namespace], None]] = {"batch": batch}

if __name__ == "__main__":
    main()
