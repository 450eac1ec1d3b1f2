"""A page that a process before has read: time to the first token, and of the whole process, without and with the cache.

    python benchmarks/pages.py            # a random Qwen2.5-VL of 160 M parameters, a page of 992 visual tokens
    python benchmarks/pages.py --runs 5 --only keeps "another question"

Every answer is a process of its own (8 greedy tokens, float32): one without the cache, one that keeps the page, then
one that asks the same and one that asks something else. The time to the first token begins when the model is loaded and
contains opening and cutting the picture, the digest of the weights and reading the entry; its processor seconds are
what other programs do not change. Medians over the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

QUESTION, SECOND = "What is the total of this page, and who wrote it?", "And when was it written?"
STEPS = {"without": QUESTION, "keeps": QUESTION, "same question": QUESTION, "another question": SECOND}


Row = dict[str, Any]


def answer(folder: Path, page: Path, question: str, kept: bool) -> None:
    """One answer in this process; prints its figures."""
    begun = time.perf_counter()
    import rave_mlx
    from rave_mlx.chat.session import Session
    from rave_mlx.generation.page_store import PageStore

    lmm = rave_mlx.load(folder)
    loaded, spent = time.perf_counter(), time.process_time()
    session = Session(lmm, max_tokens=8, pages=PageStore.open(lmm) if kept else None)
    first, busy, ids = 0.0, 0.0, []
    for piece in session.send(question, [page]):
        first, busy = first or time.perf_counter() - loaded, busy or time.process_time() - spent
        ids.append(piece.token)
    assert session.stats is not None
    print(
        json.dumps(
            {
                "load s": loaded - begun,
                "first token s": first,
                "processor s": busy,
                "stored": session.stats.stored_tokens,
                "prompt": session.stats.prompt_tokens,
                "ids": ids,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(STEPS), default=list(STEPS), help="answers to take")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        folder, page, question, kept = options.worker
        answer(Path(folder), Path(page), question, kept == "kept")
        return
    import checkpoint
    from PIL import Image

    found: dict[str, list[Row]] = {name: [] for name in options.only}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        folder, page = checkpoint.build(place / "random-160m"), place / "page.png"
        Image.fromarray(checkpoint.page()).save(page)
        for run in range(options.runs):
            environment = os.environ | {"XDG_CACHE_HOME": str(place / f"cache{run}")}
            for name in options.only:
                question = STEPS[name]
                kept = "none" if name == "without" else "kept"
                command = [sys.executable, __file__, "--worker", str(folder), str(page), question, kept]
                begun = time.perf_counter()
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
                wall = time.perf_counter() - begun
                found[name].append({**json.loads(done.stdout.splitlines()[-1]), "process s": wall})
        size = sum(file.stat().st_size for file in (place / "cache0" / "rave-mlx" / "pages").iterdir())
    base = found[options.only[0]]
    for name, rows in found.items():
        cells = [f"{key} {_median(rows, key):6.2f}" for key in ("first token s", "processor s", "process s", "load s")]
        ratios = [_median(rows, key) / _median(base, key) for key in ("first token s", "processor s")]
        print(
            f"{name:18s} {'  '.join(cells)}  x{ratios[0]:.3f} (processor x{ratios[1]:.3f})  "
            f"{rows[0]['stored']} of {rows[0]['prompt']} tokens kept"
        )
    ids = {tuple(row["ids"]) for name, rows in found.items() for row in rows if STEPS[name] == QUESTION}
    print(f"{size / 1e6:.1f} MB on disk; same ids without and with: {len(ids) == 1}")


def _median(rows: list[Row], key: str) -> float:
    return statistics.median(row[key] for row in rows)


if __name__ == "__main__":
    main()
