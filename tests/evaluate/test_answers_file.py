"""Answers on disk: written as they come, gone on with after a kill, never mixed with those of another run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command import COMMAND, rave

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.answers_file import AnswersFile
from rave_mlx.evaluate.item import Item
from rave_mlx.evaluate.runner import Result

DOCUMENTS = Path(__file__).parents[2] / "examples" / "documents"
RUN = {"task": "mine.jsonl", "model": "m"}


def result(number):
    return Result(f"Question {number}\u2028?", ("a", "b"), "a", {"kind": "x"}, True, 1.0, 0, 1, 0.5, 0.9)


@pytest.fixture
def questions(tmp_path):
    rows = [
        {"image": str(DOCUMENTS / f"{name}.png"), "question": question, "answer": answer}
        for name, question, answer in (
            ("receipt", "What is the total?", "13.60"),
            ("receipt", "What is the title?", "Harbour Cafe"),
            ("order", "Who is the customer?", "Elena Novak"),
            ("stock", "How many Screws?", "240"),
        )
    ] * 5
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_file_gives_back_what_was_added(tmp_path):
    file = tmp_path / "answers.jsonl"
    for count in range(3):
        with AnswersFile(file, RUN) as answers:
            assert answers.done == [result(number) for number in range(count)]
            answers.add(result(count))


@pytest.mark.parametrize("keep", [0, 1, 40])
def test_a_line_that_was_being_written_is_written_again(tmp_path, keep):
    file = tmp_path / "answers.jsonl"
    with AnswersFile(file, RUN) as answers:
        for number in range(2):
            answers.add(result(number))
    first, second = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + second[:keep])
    with AnswersFile(file, RUN) as answers:
        assert answers.done == [result(0)]
        answers.add(result(1))
    assert file.read_bytes() == first + second


def test_another_run_another_task_and_another_file_are_refused(tmp_path):
    file = tmp_path / "answers.jsonl"
    with AnswersFile(file, RUN) as answers:
        answers.add(result(0))
    before = file.read_bytes()
    with pytest.raises(UsageError, match=r"another run \(model 'm', now 'other'\)"):
        AnswersFile(file, RUN | {"model": "other"})
    with AnswersFile(file, RUN) as answers, pytest.raises(UsageError, match="line 1: answers 'Question 0"):
        answers.check(Item("x.png", "Another question?", ("a", "b")), 0)
    file.with_name("answers.jsonl.run.json").unlink()
    with pytest.raises(UsageError, match="is there already"):
        AnswersFile(file, RUN)
    assert file.read_bytes() == before
    with pytest.raises(UsageError, match="No such file or directory"):
        AnswersFile(tmp_path / "no" / "answers.jsonl", RUN)


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path, questions):
    out = tmp_path / "answers.jsonl"
    command = [*COMMAND, "evaluate", "--task", str(questions), "--out", str(out), "--attention", "rave"]
    command += ["--batch-size", "1"]  # so that it is seen at work
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not (out.exists() and out.read_bytes().count(b"\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = out.read_bytes().count(b"\n")
    assert 2 <= kept < 20
    done = rave("evaluate", "--task", questions, "--out", out, "--attention", "rave", "--json")
    assert done.returncode == 0, done.stderr
    assert f"{kept} answers are there" in done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    asked = [json.loads(line)["question"] for line in questions.read_text().splitlines()]
    assert [row["question"] for row in rows] == asked
    assert json.loads(done.stdout)["all"]["count"] == 20


def test_progress_has_a_total_off_a_terminal_too(tmp_path, capsys, monkeypatch):
    from rave_mlx.evaluate.output import Progress

    now = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr("rave_mlx.evaluate.output.time.monotonic", lambda: next(now))
    progress = Progress()
    for share in (0.25, 0.5, 0.75, 1.0):
        progress(Item("x.png", "?", ("a",), progress=share), result(0))
    assert capsys.readouterr().err.splitlines() == [
        " 50% done, 2 answers, 100.0% exact, about 1 min left",
        "100% done, 4 answers, 100.0% exact",
    ]
