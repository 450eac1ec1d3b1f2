"""What a model says: computed by one process in a test, and, run as a program, by several that hold it together.

python answers.py OUT.npz MODEL...
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import typer
from support import ask, picture

from rave_mlx.chat.session import Session
from rave_mlx.generation.drafts import LookupDrafts
from rave_mlx.generation.job import Job
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.models.lmm import LMM

WORDS = [{"role": "user", "content": "How are you?"}]
IMAGE = [ask("What is the total?", picture(24, 16))]


def answers(lmm: LMM, name: str) -> dict[str, Any]:
    """Logits of a padded batch, and the ids of an answer."""
    lmm.kv_bits = 8 if lmm.config.text.head_dim % 32 == 0 else None
    prompts = [lmm.prepare(WORDS), lmm.prepare(IMAGE)]
    session = Session(lmm, max_tokens=3, policy="none" if lmm.config.gate is None else "rave")
    ids = [piece.token for piece in session.answer(IMAGE)]
    return {f"{name} logits": np.array(lmm.logits(prompts))[:, -8:], f"{name} ids": np.array(ids)}


def ways(lmm: LMM, name: str) -> dict[str, Any]:
    """Ids of answers that are written in every way that changes caches otherwise."""
    found: dict[str, Any] = {}
    words, image = lmm.prepare(WORDS), lmm.prepare(IMAGE)
    # Written together: a prefix that is known, rows that end early, guesses that are wrong.
    jobs = [Job(image, max_tokens=2, key=0), Job(words, max_tokens=3, key=1), Job(image, max_tokens=4, key=2)]
    jobs.append(Job(image, max_tokens=5, key=3, drafts=LookupDrafts(image)))
    for answer in Scheduler(lmm, rows=3).run(jobs):
        assert answer.error is None, answer.error
        found[f"{name} job {answer.key}"] = np.array(answer.ids)
    # A conversation: its second prompt shares a part with what was read and written.
    session = Session(lmm, max_tokens=2, policy="none")
    for turn in range(2):
        found[f"{name} turn {turn}"] = np.array([piece.token for piece in session.send("So?")])
    return found


if __name__ == "__main__":
    from rave_mlx.cli import split

    try:
        processes = split.begin()
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    assert processes is not None
    out, *models = sys.argv[1:]
    said: dict[str, Any] = {}
    for model in models:
        lmm = split.load(processes, model)
        said |= answers(lmm, model)
        if processes.world.size == 2 and model.endswith("linear"):
            said |= ways(lmm, model)
    np.savez(out, **said)
