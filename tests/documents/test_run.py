"""Runs over documents: a row for each, in order, whatever is wrong with some; resumed runs do nothing twice."""

from __future__ import annotations

import json
import os
import resource
from collections import Counter
from pathlib import Path

import pytest
from document_files import ENCRYPTED, make_pdf, make_png
from PIL import Image

from rave_mlx.checkpoint.rows_file import RowsFile
from rave_mlx.documents.pages import describe_failures
from rave_mlx.documents.progress import Progress
from rave_mlx.documents.run import run, written_by
from rave_mlx.documents.sources import find_documents
from rave_mlx.documents.stream import Outcome, process_documents
from rave_mlx.errors import ImageError, RaveError, UsageError

EMPTY = {"fields": None}


class Reader:
    """Gives the mean grey of every page; looks ahead as far as a batch does."""

    def __init__(self, ahead=0, stop_after=None):
        self.read, self._ahead, self._stop = Counter(), ahead, stop_after

    def __call__(self, documents):
        waiting = []
        for document in documents:
            waiting.append(document)
            if len(waiting) > self._ahead:
                yield self._one(waiting.pop(0))
        for document in waiting:
            yield self._one(document)

    def _one(self, document):
        if self._stop is not None and sum(self.read.values()) >= self._stop:
            raise KeyboardInterrupt
        self.read[document.name] += 1
        greys, failures = [], dict.fromkeys(document.missing, "there is no such page")
        for page in document.pages:
            try:
                greys.append(round(sum(page.draw(400).convert("L").tobytes())))
            except ImageError as error:
                failures[page.number] = page.reason(error)
            document.page_done(page.number, failures.get(page.number))
        return Outcome({"fields": {"greys": greys}}, describe_failures(failures) or None)


@pytest.fixture
def pile(tmp_path, monkeypatch):
    """A folder of good and bad documents, which is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").mkdir()
    broken = make_pdf(*"abcde").replace(b"8 0 obj\n<< /Type /Page ", b"8 0 obj\n<< /Type /Pxge ")
    for name, data in {
        "1 good.pdf": make_pdf("a", "b"), "2 locked.pdf": make_pdf("x", trailer=ENCRYPTED), "3 zero.png": b"",
        "4 same.png": make_png(), "5 same.png": make_png(), "6 cut.pdf": make_pdf("abc")[:50],
        "7 broken.pdf": broken, "8 none.pdf": make_pdf(), "9 good.png": make_png(99), "10 line\nbreak.png": make_png(7),
    }.items():  # fmt: skip
        (tmp_path / "s" / name).write_bytes(data)
    os.mkfifo("s/11 pipe.pdf")
    return tmp_path / "s"


def go(process, *named, out=Path("rows.jsonl"), resume=False, settings=None, quiet=True):
    found = find_documents(list(named) or ["s"], skip=[] if out is None else written_by(out))
    with Progress("test", len(found.documents), quiet=quiet) as progress:
        return run(
            found, process, progress, out=out, settings=settings or {"model": "m"}, empty=EMPTY, resume=resume
        )  # fmt: skip


def rows(file="rows.jsonl"):
    return [json.loads(line) for line in Path(file).read_bytes().decode().split("\n")[:-1]]


@pytest.mark.parametrize("ahead", [0, 1, 3, 100])
def test_a_row_for_every_document_in_order(pile, ahead):
    report = go(Reader(ahead))
    damaged = "the PDF is damaged; download or export it again"
    assert [(row["file"], row["pages"], row["error"]) for row in rows()] == [
        ("s/1 good.pdf", 2, None),
        ("s/2 locked.pdf", None, "the PDF is encrypted; save a copy without a password"),
        ("s/3 zero.png", None, "the file is empty; download or export it again"),
        ("s/4 same.png", 1, None),
        ("s/5 same.png", 1, None),
        ("s/6 cut.pdf", None, damaged),
        ("s/7 broken.pdf", 5, f"page 3: {damaged}"),
        ("s/8 none.pdf", None, "the PDF has no pages; export it again"),
        ("s/9 good.png", 1, None),
        ("s/10 line\nbreak.png", 1, None),
        ("s/11 pipe.pdf", None, "this is a pipe or a device; save the image to a file and name that"),
    ]
    assert list(rows()[0]) == ["file", "sha256", "pages", "fields", "error"]
    assert rows()[1]["fields"] is None
    assert len(rows()[6]["fields"]["greys"]) == 4
    assert rows()[3]["sha256"] == rows()[4]["sha256"]
    assert rows()[1]["sha256"] is not None
    assert rows()[10]["sha256"] is None
    assert (report.documents, report.pages, report.failed) == (11, 11, 6)
    assert report.exit_code() == 1
    assert report.exit_code(allow_errors=True) == 0


def test_a_run_that_is_stopped_goes_on(pile, capsys):
    go(Reader(), out=Path("whole.jsonl"))
    with pytest.raises(KeyboardInterrupt):
        go(Reader(ahead=2, stop_after=3), quiet=False)
    said = capsys.readouterr().err
    assert "stopped: finished rows are in rows.jsonl; the same command with --resume goes on" in said
    kept = [row["file"] for row in rows()]
    assert kept == [row["file"] for row in rows("whole.jsonl")][: len(kept)]
    assert 3 <= len(kept) <= 6
    reader = Reader(ahead=2)
    report = go(reader, resume=True)
    assert Path("rows.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert not set(reader.read) & set(kept)
    assert report.known == 3
    assert report.failed == 6


def test_an_output_is_not_added_to_without_being_asked(pile):
    go(Reader())
    with pytest.raises(UsageError, match="is there already; go on with it with --resume"):
        go(Reader())
    with pytest.raises(UsageError, match="another run"):
        go(Reader(), resume=True, settings={"model": "other"})


def test_resumed_runs_know_documents_by_name_and_content(pile):
    go(Reader())
    before = {row["file"]: row for row in rows()}
    (pile / "4 same.png").write_bytes(make_png(1))  # changed
    (pile / "2 locked.pdf").write_bytes(make_pdf("open"))  # can be opened now
    (pile / "9 good.png").rename(pile / "0 good.png")  # another name
    (pile / "3 zero.png").unlink()  # gone
    reader = Reader(ahead=2)
    go(reader, resume=True)
    assert reader.read == {"s/4 same.png": 1, "s/2 locked.pdf": 1, "s/0 good.png": 1}
    assert [row["file"] for row in rows()] == [
        "s/3 zero.png", "s/9 good.png",  # not there any more: their rows stay, before the others
        "s/0 good.png", "s/1 good.pdf", "s/2 locked.pdf", "s/4 same.png", "s/5 same.png", "s/6 cut.pdf",
        "s/7 broken.pdf", "s/8 none.pdf", "s/10 line\nbreak.png", "s/11 pipe.pdf",
    ]  # fmt: skip
    after = {row["file"]: row for row in rows()}
    assert after["s/4 same.png"]["sha256"] != before["s/4 same.png"]["sha256"]
    assert after["s/2 locked.pdf"]["error"] is None
    unchanged = set(before) - {"s/4 same.png", "s/2 locked.pdf"}
    assert all(after[name] == before[name] for name in unchanged)


def test_more_documents_go_behind(pile):
    go(Reader(), "s/9 good.png")
    go(Reader(), "s/5 same.png", "s/1 good.pdf", resume=True)
    assert [row["file"] for row in rows()] == ["s/9 good.png", "s/5 same.png", "s/1 good.pdf"]


def test_rows_to_standard_output(pile, capfdbinary):
    report = go(Reader(), "s/1 good.pdf", "s/3 zero.png", out=None)
    lines = capfdbinary.readouterr().out.splitlines()
    assert [json.loads(line)["file"] for line in lines] == ["s/1 good.pdf", "s/3 zero.png"]
    assert report.failures == {"the file is empty; download or export it again": 1}
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["s"]


def test_a_disk_that_becomes_full(pile):
    go(Reader(), out=Path("whole.jsonl"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, before[1]))
    try:
        with pytest.raises(
            RaveError, match=r"^rows.jsonl: cannot be written \(File too large\); what it holds is kept"
        ):
            go(Reader())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = Path("rows.jsonl").read_bytes()
    assert Path("whole.jsonl").read_bytes().startswith(kept)
    assert kept.endswith(b"\n")
    go(Reader(), resume=True)
    assert Path("rows.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_two_runs_on_one_output(pile):
    with RowsFile(Path("rows.jsonl"), {}), pytest.raises(UsageError, match="another run is writing it"):
        go(Reader())


@pytest.mark.parametrize(
    ("out", "complaint"),
    [
        ("rows.txt", "rows are written as .jsonl, .csv, .parquet; give it one of these endings"),
        ("no/rows.jsonl", "No such file or directory"),
        ("s/11 pipe.jsonl", "is no file"),
    ],
)
def test_outputs_that_cannot_be(pile, out, complaint):
    os.mkfifo("s/11 pipe.jsonl")
    with pytest.raises(UsageError, match=complaint):
        go(Reader(), out=Path(out))


def test_missing_pages_are_errors_by_page(pile):
    from rave_mlx.documents.pages_spec import parse_pages

    found = find_documents(["s/1 good.pdf", "s/7 broken.pdf"], pages=parse_pages("1,3"))
    done = list(process_documents(found.documents, Reader(), empty=EMPTY))
    assert [each.outcome.error for each in done] == [
        "page 3: there is no such page", "page 3: the PDF is damaged; download or export it again",
    ]  # fmt: skip


def test_documents_are_closed_when_their_rows_are_out(pile):
    opened = []

    def process(documents):
        for document in documents:
            opened.append(document)
            yield Outcome()

    for _ in process_documents(find_documents("s").documents, process, empty=EMPTY):
        assert all(document._content.data for document in opened)
    for document in opened:
        if document.is_pdf:
            with pytest.raises(ImageError, match="the document was closed"):
                document.pages[0].draw(100)


def test_a_process_that_forgets_a_document_is_noticed(pile):
    with pytest.raises(RuntimeError, match="documents were not answered"):
        list(process_documents(find_documents("s").documents, lambda documents: iter(list(documents)[:0]), empty=EMPTY))


def test_it_is_said_that_an_animation_is_read_in_part(pile, capsys):
    frames = [Image.new("L", (9, 9), shade) for shade in (0, 99, 200)]
    frames[0].save("s/moving.gif", save_all=True, append_images=frames[1:])
    report = go(Reader(), "s/moving.gif", "s/9 good.png", quiet=False)
    assert capsys.readouterr().err == "s/moving.gif: the first of 3 frames is read\n"
    assert (report.pages, rows()[0]["pages"]) == (2, 1)


def test_progress_and_report_off_a_terminal(pile, capsys, monkeypatch):
    now = iter(range(0, 10_000, 20))
    monkeypatch.setattr("rave_mlx.documents.progress.time.monotonic", lambda: next(now))
    report = go(Reader(), quiet=False)
    said = capsys.readouterr().err
    assert "s/2 locked.pdf: the PDF is encrypted; save a copy without a password\n" in said
    assert "s/10 line?break.png" not in said
    progress = [line for line in said.splitlines() if line.startswith("test: ")]
    assert progress
    assert all("of 11 documents" in line and "pages/s" in line for line in progress)
    assert any(" left" in line for line in progress)
    lines = str(report).splitlines()
    assert lines[0].startswith("11 documents, 11 pages in ")
    assert lines[0].endswith("; 6 with errors")
    assert "  1 x the PDF has no pages; export it again" in lines
    assert lines[-1] == "rows: rows.jsonl"
