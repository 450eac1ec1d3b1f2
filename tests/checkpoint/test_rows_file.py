"""Rows on disk: whole lines or none, one writer at a time, never those of another run."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from rave_mlx.checkpoint.output_files import replacing, write_beside
from rave_mlx.checkpoint.rows_file import RowsFile, encode_row, read_lines
from rave_mlx.errors import RaveError, UsageError

RUN = {"model": "m", "options": {"pages": None}}


def rows(file):
    return [row for _, _, row in read_lines(file)]


@pytest.fixture
def small_disk():
    """No file may become larger than 200 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_rows_are_read_as_they_were_written(tmp_path):
    file = tmp_path / "rows.jsonl"
    given = [{"a": "\u2028é\n"}, {"half": "\ud83d"}, {"n": [1, 2.5, None]}]
    with RowsFile(file, RUN) as out:
        for row in given:
            out.add(row)
    assert rows(file) == given
    assert "é".encode() in file.read_bytes()
    assert file.read_bytes().count(b"\n") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "rows.jsonl.run.json"]


@pytest.mark.parametrize("cut", [b'{"a"', b"{", b'{"a": "' + b"x" * 200_000])
def test_a_line_without_its_end_is_cut_off(tmp_path, cut):
    file = tmp_path / "rows.jsonl"
    for kept in ([{"a": 1}, {"a": 2}], []):
        with RowsFile(file, RUN, resume=True) as out:
            out.replace(map(encode_row, kept))
        file.write_bytes(file.read_bytes() + cut)
        with RowsFile(file, RUN, resume=True) as out:
            out.add({"a": 3})
        assert rows(file) == [*kept, {"a": 3}]


def test_what_is_there_is_refused_without_resume_and_of_another_run(tmp_path):
    file = tmp_path / "rows.jsonl"
    with RowsFile(file, RUN, resume=False) as out:
        out.add({"a": 1})
    before, remedy = file.read_bytes(), "choose another --out, or remove it"
    for run, resume, complaint in (
        (RUN, False, "is there already; go on with it with --resume, or choose another --out"),
        (
            RUN | {"model": "n"},
            True,
            f"has the rows of another run (model 'm', now 'n'); {remedy}",
        ),
    ):
        with pytest.raises(UsageError) as raised:
            RowsFile(file, run, resume=resume)
        assert str(raised.value) == f"{file}: {complaint}"
    settings = file.with_name("rows.jsonl.run.json")
    settings.write_text("{")
    with pytest.raises(UsageError, match="does not say of what run the rows are"):
        RowsFile(file, RUN)
    settings.unlink()
    with pytest.raises(UsageError, match="is there already, and not from a run that can be gone on with"):
        RowsFile(file, RUN)
    assert file.read_bytes() == before
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UsageError, match="is no file"):
        RowsFile(tmp_path / "folder.jsonl", RUN)
    with pytest.raises(UsageError, match="No such file or directory"):
        RowsFile(tmp_path / "no" / "rows.jsonl", RUN)


def test_a_file_of_something_else(tmp_path):
    file = tmp_path / "rows.jsonl"
    with RowsFile(file, RUN) as out:
        out.add({"a": 1})
    file.write_bytes(b'{"a": 1}\nhello\n')
    with RowsFile(file, RUN) as out, pytest.raises(UsageError, match="line 2: holds something else than rows"):
        list(out.lines())


def test_one_writer_at_a_time_also_after_a_kill(tmp_path):
    file = tmp_path / "rows.jsonl"
    code = (
        "import sys, time; from pathlib import Path; from rave_mlx.checkpoint.rows_file import RowsFile\n"
        f"with RowsFile(Path({str(file)!r}), {RUN!r}) as out:\n"
        "    out.add({'a': 1}); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(UsageError) as raised:
        RowsFile(file, RUN)
    assert str(raised.value) == (
        f"{file}: another run is writing it (process {process.pid}); wait until it has ended, or choose another --out"
    )
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with RowsFile(file, RUN) as out:
        out.add({"a": 2})
    assert rows(file) == [{"a": 1}, {"a": 2}]
    assert not file.with_name("rows.jsonl.lock").exists()


def test_many_that_begin_at_once_have_one_winner(tmp_path):
    file = tmp_path / "rows.jsonl"
    code = (
        "import sys, time; from pathlib import Path; from rave_mlx.checkpoint.rows_file import RowsFile\n"
        "from rave_mlx.errors import UsageError\n"
        "time.sleep(max(0, float(sys.argv[1]) - time.time()))\n"
        "for _ in range(200):\n"
        "    try:\n"
        f"        with RowsFile(Path({str(file)!r}), {RUN!r}) as out:\n"
        "            list(out.lines()); out.add({'a': 'x' * 5000}); \n"
        "    except UsageError as error:\n"
        "        assert 'another run is writing it' in str(error), error\n"
    )
    start = str(time.time() + 1.5)
    processes = [subprocess.Popen([sys.executable, "-c", code, start]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert {len(row["a"]) for row in rows(file)} == {5000}


def test_no_half_row_on_a_full_disk(tmp_path, small_disk):
    file = tmp_path / "rows.jsonl"
    with RowsFile(file, RUN) as out:
        for number in range(2):
            out.add({"a": "x" * 70, "number": number})
        with pytest.raises(RaveError) as raised:
            out.add({"a": "x" * 70, "number": 2})
        assert str(raised.value) == (
            f"{file}: cannot be written (File too large); what it holds is kept: make room, and go on with --resume"
        )
        assert [row["number"] for row in rows(file)] == [0, 1]
        out.add({"b": 3})
    assert file.read_bytes().endswith(b'"number": 1}\n{"b": 3}\n')


def test_other_lines_in_one_step(tmp_path, small_disk):
    file = tmp_path / "rows.jsonl"
    with RowsFile(file, RUN) as out:
        out.add({"a": 1})
        before = file.read_bytes()
        with pytest.raises(RaveError, match="File too large"):
            out.replace(b'{"n": %d}\n' % n for n in range(100))
        assert file.read_bytes() == before
        out.replace(b'{"n": %d}\n' % n for n in range(3))
        out.add({"n": 3})
    assert rows(file) == [{"n": n} for n in range(4)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "rows.jsonl.run.json"]


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path):
    file = tmp_path / "a"
    write_beside(file, [b"old"])
    with pytest.raises(ValueError, match="half way"), replacing(file) as out:
        out.write(b"ne")
        raise ValueError("half way")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert file.read_bytes() == b"old"


def test_settings_are_plain_json(tmp_path):
    file = tmp_path / "rows.jsonl"
    with RowsFile(file, {"pages": (1, 2)}) as out:
        out.add({})
    with RowsFile(file, {"pages": (1, 2)}):
        pass
    assert json.loads(file.with_name("rows.jsonl.run.json").read_text()) == {"pages": [1, 2]}
