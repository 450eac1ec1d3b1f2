"""Several processes share a pile, over MLX's ring on loopback: the rows are those of one process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from document_files import make_pdf, make_png

RUN = """
import sys, time
from pathlib import Path
from rave_mlx.backend.distributed import join
from rave_mlx.documents.progress import Progress
from rave_mlx.documents.run import run, written_by
from rave_mlx.documents.sources import find_documents
from rave_mlx.documents.stream import Outcome
from rave_mlx.errors import RaveError

def process(documents):
    for document in documents:
        time.sleep(float(sys.argv[3]))
        greys = [sum(page.draw(4000).convert("L").tobytes()) for page in document.pages]
        yield Outcome({"fields": {"greys": greys, "long": "\\u2028" + "x" * 300_000}})

out = Path(sys.argv[1])
pile = find_documents(["s"], skip=written_by(out))
try:
    with Progress("test", len(pile.documents), quiet=True) as progress:
        report = run(
            pile, process, progress, out=out, settings={"model": sys.argv[2]}, empty={"fields": None},
            resume="--resume" in sys.argv, world=join(),
        )
    print(report.documents, report.known, report.pages, report.failed, flush=True)
except RaveError as error:
    print(error, flush=True)
    sys.exit(1)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with documents, and the rows that one process makes of them."""
    folder = tmp_path_factory.mktemp("pile")
    (folder / "s").mkdir()
    for number in range(7):
        (folder / "s" / f"{number}.pdf").write_bytes(make_pdf(*map(str, range(number % 3 + 1))))
        (folder / "s" / f"{number}.png").write_bytes(make_png(number) if number != 3 else b"")
    command = [sys.executable, "-c", RUN, "whole.jsonl", "m", "0"]
    assert subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout.split() == [
        b"14", b"0", b"19", b"1",
    ]  # fmt: skip
    return folder


@pytest.fixture
def pile(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s").symlink_to(whole / "s")
    return (whole / "whole.jsonl").read_bytes()


def launch(size, out, *more, models=None, wait="0"):
    """Start processes that know each other, as `mlx.launch` does."""
    environment = dict(os.environ)
    if size > 1:
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(size)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            hosts = [[f"127.0.0.1:{each.getsockname()[1]}"] for each in sockets]
        Path("hosts.json").write_text(json.dumps(hosts))
        environment["MLX_HOSTFILE"] = "hosts.json"
    return [
        subprocess.Popen(
            [sys.executable, "-c", RUN, out, (models or ["m"] * size)[rank], wait, *more],
            env=environment | ({"MLX_RANK": str(rank)} if size > 1 else {}),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def ended(processes):
    said = [process.communicate(timeout=120)[0].strip() for process in processes]
    return [process.returncode for process in processes], said


def test_the_rows_are_those_of_one_process(pile):
    codes, said = ended(launch(2, "rows.jsonl"))
    assert codes == [0, 0], said
    assert Path("rows.jsonl").read_bytes() == pile
    assert said[0] == "14 0 19 1"
    names = {path.name for path in Path.cwd().iterdir()}
    assert {name for name in names if name.startswith("rows")} == {"rows.jsonl", "rows.jsonl.run.json"}


@pytest.mark.parametrize("size", [1, 3])
def test_a_killed_run_goes_on_with_any_number_of_processes(pile, size):
    processes = launch(2, "rows.jsonl", wait="0.1")
    rank1 = Path("rows.jsonl.rank1")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (rank1.exists() and rank1.read_bytes().count(b"\n") >= 3):
        time.sleep(0.01)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    kept = rank1.read_bytes().count(b"\n") + Path("rows.jsonl").read_bytes().count(b"\n")
    assert 3 <= kept < 14
    codes, said = ended(launch(size, "rows.jsonl", "--resume"))
    assert codes == [0] * size, said
    assert Path("rows.jsonl").read_bytes() == pile
    assert 2 <= int(said[0].split()[1]) <= kept
    assert not list(Path.cwd().glob("rows.jsonl.rank*"))


def test_rows_of_a_stopped_run_are_not_passed_over(whole, pile):
    for ending in ("", ".run.json"):
        shutil.copy(whole / f"whole.jsonl{ending}", f"rows.jsonl.rank1{ending}")
    codes, said = ended(launch(1, "rows.jsonl"))
    assert codes == [1]
    stopped = "rows of a run that was stopped (--resume goes on with it)"
    assert said == [f"rows.jsonl.rank1: {stopped}; choose another --out, or remove it"]
    codes, said = ended(launch(1, "rows.jsonl", "--resume", models=["other"]))
    assert said == ["rows.jsonl.rank1: rows of another run; choose another --out, or remove it"]


def test_processes_with_other_models_are_refused(pile):
    codes, said = ended(launch(2, "rows.jsonl", models=["m", "n"]))
    assert codes == [1, 1]
    assert all("are not the same in all 2 processes" in each for each in said)


def test_an_error_of_one_process_is_that_of_all(pile):
    Path("rows.jsonl.rank1").mkdir()
    codes, said = ended(launch(2, "rows.jsonl"))
    assert codes == [1, 1]
    assert said == [
        "process 1: rows.jsonl.rank1: is no file; choose another --out",
        "rows.jsonl.rank1: is no file; choose another --out",
    ]
