"""Data sets of benchmarks from a Hub on loopback, with the real client: what is fetched, and what is refused how."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hub_server import TOKEN, Repo, files_of, running
from published_layouts import docvqa, omnidocbench

ASK = """
import json, sys
from rave_mlx.errors import RaveError
from rave_mlx.evaluate.benchmarks import benchmark, benchmark_items

for name, most, place in json.loads(sys.argv[1]):
    try:
        found = [item.answers[0] for item in benchmark_items(benchmark(name), most, place)]
    except RaveError as error:
        found = f"{type(error).__name__}: {error}"
    print(json.dumps(found))
"""


def ask(hub, home, *questions, token=None, **environment):
    """The right answers of some benchmarks, or the error, as another process gets them from this Hub."""
    known = os.environ | hub.environment(home, token) | environment
    command = [sys.executable, "-c", ASK, json.dumps(questions)]
    done = subprocess.run(command, env=known, capture_output=True, text=True, timeout=120, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def hub(tmp_path):
    docvqa(tmp_path / "docvqa", count=3, shards=3)
    (tmp_path / "omnidocbench").mkdir()
    omnidocbench(tmp_path / "omnidocbench", count=4)
    with running(
        **{
            "datasets__lmms-lab-encoder__DocVQA": Repo(files_of(tmp_path / "docvqa") | {"README.md": b"card"}),
            "datasets__opendatalab__OmniDocBench": Repo(files_of(tmp_path / "omnidocbench")),
            "datasets__some__gated": Repo({"DocVQA/validation-00000-of-00001.parquet": b"x"}, gated=True),
            "datasets__some__other": Repo({"data/train-00000-of-00001.parquet": b"x"}),
        }
    ) as hub:
        yield hub


def test_only_the_files_that_are_needed_are_fetched_and_none_twice(hub, tmp_path):
    questions = ["docvqa", 4, None], ["omnidocbench", 2, None]
    first = ask(hub, tmp_path / "home", *questions, token=TOKEN)
    assert first == [
        ["No 0", "No 1", "No 2", "No 3"],
        ["Page number 0", "Page number 1\n\n" + first[1][1].split("\n\n")[1]],
    ]
    shards = {f"DocVQA/validation-{n:05}-of-00003.parquet" for n in range(2)}
    assert hub.fetched("datasets/lmms-lab-encoder/DocVQA") == shards
    pages = {"OmniDocBench.json", "images/page 0.jpg", "images/page 1.jpg"}
    assert hub.fetched("datasets/opendatalab/OmniDocBench") == pages
    hub.log.clear()
    assert ask(hub, tmp_path / "home", *questions) == first
    assert not any(seen.sent for seen in hub.log if "/resolve/" in seen.path or "/cdn/" in seen.path)
    # Without a connection the cache does, and a part of a benchmark is not taken for all of it.
    offline = ask(hub, tmp_path / "home", questions[0], ["docvqa", None, None], HF_HUB_OFFLINE="1")
    assert offline[0] == first[0]
    assert "DocVQA/validation-00002-of-00003.parquet is missing; fetch it" in offline[1]


def test_what_the_hub_refuses_is_said_in_a_line(hub, tmp_path):
    gated, none, other, unconnected = (
        *ask(hub, tmp_path / "a", ["docvqa", 1, "some/gated"], ["docvqa", 1, "some/none"], ["docvqa", 1, "some/other"]),
        *ask(hub, tmp_path / "b", ["docvqa", 1, None], HF_HUB_OFFLINE="1"),
    )
    assert gated.startswith(
        "ModelError: some/gated, DocVQA/validation-00000-of-00001.parquet: its owner asks you to accept"
    )
    assert none.startswith("ModelError: some/none: the Hub has no such data set, or it is private: check the name")
    assert other == (
        "UsageError: some/other: this data set has no files DocVQA/validation-*.parquet, as DocVQA is published"
    )
    assert "DocVQA: is not in the local cache, and HF_HUB_OFFLINE is set; unset it" in unconnected
    assert 401 in {seen.status for seen in hub.log}
    assert all("\n" not in said for said in (gated, none, other, unconnected))
