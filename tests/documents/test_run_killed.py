"""Runs that are killed at any moment: nothing is lost, nothing is there twice, the order is that of the input."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from document_files import ENCRYPTED, make_pdf, make_png

from rave_mlx.documents.sources import find_documents

RUN = """
import random, sys, time
from pathlib import Path
from rave_mlx.documents.progress import Progress
from rave_mlx.documents.run import run, written_by
from rave_mlx.documents.sources import find_documents
from rave_mlx.documents.stream import Outcome

def batch(documents):
    for document in documents:
        greys = [sum(page.draw(4000).convert("L").tobytes()) for page in document.pages]
        time.sleep(random.uniform(0, 0.02))
        yield document, greys

def process(documents):
    waiting = []
    for done in batch(documents):  # a batch of four is done together
        waiting.append(done)
        if len(waiting) == 4:
            yield from (Outcome({"fields": {"greys": greys}}) for _, greys in waiting)
            waiting = []
    yield from (Outcome({"fields": {"greys": greys}}) for _, greys in waiting)

out = Path(sys.argv[1])
pile = find_documents(["s"], skip=written_by(out))
with Progress("test", len(pile.documents), quiet=True) as progress:
    run(pile, process, progress, out=out, settings={"model": "m"}, empty={"fields": None}, resume=True)
"""


@pytest.fixture
def pile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").mkdir()
    for number in range(40):
        data = make_pdf(*map(str, range(number % 4 + 1)), trailer=ENCRYPTED if number % 9 == 5 else b"")
        (tmp_path / "s" / f"{number}.pdf").write_bytes(data)
        (tmp_path / "s" / f"{number}.png").write_bytes(make_png(number % 5))
    return [source.name for source in find_documents("s").documents]


def start(out):
    return subprocess.Popen([sys.executable, "-c", RUN, out])


def killed(out, rng, kills):
    """Kill runs on one output, each after it has written something; how many rows there were after each."""
    counts = [0]
    for _ in range(kills):
        process = start(out)
        deadline = time.monotonic() + 120
        journal = Path(out if out.endswith(".jsonl") else f"{out}.jsonl")
        while process.poll() is None and time.monotonic() < deadline:
            if journal.exists() and journal.read_bytes().count(b"\n") > counts[-1]:
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        counts.append(journal.read_bytes().count(b"\n"))
    return counts


@pytest.mark.parametrize("out", ["rows.jsonl", "table.csv"])
def test_killed_runs_go_on(pile, out):
    kills = int(os.environ.get("RAVE_MLX_KILLS", "4")) // 2
    assert start("whole.jsonl").wait() == 0
    counts = killed(out, random.Random(kills), kills)
    assert counts == sorted(set(counts))
    assert start(out).wait() == 0
    journal = Path(out if out.endswith(".jsonl") else f"{out}.jsonl")
    assert [json.loads(line)["file"] for line in journal.read_text().splitlines()] == pile
    assert journal.read_bytes() == Path("whole.jsonl").read_bytes()
    if out.endswith(".csv"):
        assert len(Path(out).read_text(encoding="utf-8-sig").splitlines()) == 1 + len(pile)
    left = {path.name for path in Path.cwd().iterdir()}
    assert left == {"s", "whole.jsonl", "whole.jsonl.run.json", out, journal.name, f"{journal.name}.run.json"}
