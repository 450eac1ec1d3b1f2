"""The course of commands over documents: what they say, what they end with, and what an interrupt leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from document_files import ENCRYPTED, make_pdf, make_png

from rave_mlx.cli import document_options
from rave_mlx.documents.stream import Outcome
from rave_mlx.errors import ImageError, UsageError


@pytest.fixture
def pile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s").mkdir()
    for name, data in {
        "a.pdf": make_pdf("x", "y"), "b.pdf": make_pdf("x", trailer=ENCRYPTED), "c.png": make_png(), "d.docx": b"PK",
    }.items():  # fmt: skip
        Path("s", name).write_bytes(data)
    return tmp_path


def process(documents):
    for document in documents:
        yield Outcome({"fields": {"sizes": [page.draw(900).size for page in document.pages]}})


def go(*, out="rows.jsonl", pages=None, quiet=False, allow_errors=False, resume=False):
    pile = document_options.find(["s"], pages, Path(out), quiet=quiet)
    return document_options.go(
        "extract", pile, process, out=Path(out), settings={"pages": pages}, empty={"fields": None}, resume=resume,
        allow_errors=allow_errors, quiet=quiet,
    )  # fmt: skip


def test_errors_end_with_1_after_the_whole_pile(pile, capsys):
    with pytest.raises(typer.Exit) as raised:
        go()
    assert raised.value.exit_code == 1
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert lines[0] == "1 file that is no picture or PDF is left out: 1 .docx"
    assert lines[1] == "s/b.pdf: the PDF is encrypted; save a copy without a password"
    assert lines[2].startswith("3 documents, 3 pages in ")
    assert lines[2].endswith("; 1 with errors")
    assert lines[-1] == "rows: rows.jsonl"
    assert [json.loads(line)["file"] for line in Path("rows.jsonl").read_text().splitlines()] == [
        "s/a.pdf", "s/b.pdf", "s/c.png",
    ]  # fmt: skip


def test_errors_may_be_allowed_and_quiet_says_only_failures(pile, capsys):
    report = go(allow_errors=True, quiet=True, out="t.csv")
    assert report.failed == 1
    assert capsys.readouterr().err == "s/b.pdf: the PDF is encrypted; save a copy without a password\n"
    with pytest.raises(typer.Exit):  # an error from before counts
        go(resume=True, out="t.csv")
    assert "3 documents (2 had their row already), 0 pages in " in capsys.readouterr().err


def test_wrong_options_are_refused_before_anything_is_read(pile):
    for options, complaint in (
        ({"pages": "x"}, "--pages x: 'x' is no page; write pages as in 1-3,7 or 2- or last"),
        ({"out": "rows.xlsx"}, "--out rows.xlsx: rows are written as .jsonl, .csv, .parquet; give it one of these"),
    ):
        with pytest.raises(UsageError) as raised:
            go(**options)
        assert str(raised.value).startswith(complaint)
    with pytest.raises(ImageError, match="nowhere: no such file or folder"):
        document_options.find(["nowhere"], None, None, quiet=True)
    assert [path.name for path in pile.iterdir()] == ["s"]


def test_an_interrupt_keeps_finished_rows_and_says_how_to_go_on(pile):
    for number in range(30):
        Path("s", f"{number}.png").write_bytes(make_png())
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom rave_mlx.cli import document_options, main\n"
        "from rave_mlx.documents.stream import Outcome\n"
        "def process(documents):\n"
        "    for document in documents:\n"
        "        time.sleep(0.1); yield Outcome({'fields': {}})\n"
        "def command():\n"
        "    pile = document_options.find(['s'], None, Path('rows.jsonl'), quiet=False)\n"
        "    document_options.go('extract', pile, process, out=Path('rows.jsonl'), settings={}, empty={},\n"
        "        resume=False, allow_errors=False, quiet=False)\n"
        "main.app.command()(command)\nsys.exit(main.main(['command']))\n"
    )
    running = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (Path("rows.jsonl").exists() and Path("rows.jsonl").stat().st_size):
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert "stopped: finished rows are in rows.jsonl; the same command with --resume goes on\n" in said
    assert "Traceback" not in said
    rows = [json.loads(line)["file"] for line in Path("rows.jsonl").read_text().splitlines()]
    assert rows == [f"s/{number}.png" for number in range(len(rows))]
    assert 1 <= len(rows) < 30
    assert not Path("rows.jsonl.lock").exists()
