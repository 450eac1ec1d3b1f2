"""The command line as a person uses it: real files, the built-in model, processes where they matter."""

from __future__ import annotations

import inspect
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from command import COMMAND, rave, rave_process
from PIL import Image
from support import form, write_image

import rave_mlx
from rave_mlx import Session
from rave_mlx.chat.turn_stats import TurnStats
from rave_mlx.checkpoint.directory import BUILT_IN
from rave_mlx.cli.main import app
from rave_mlx.cli.repl import Repl

EXAMPLES = Path(__file__).parents[2] / "examples"
DOCUMENTS = EXAMPLES / "documents"


def test_the_first_command_of_the_readme_answers():
    done = rave_process("chat", "--image", DOCUMENTS / "receipt.png", "--prompt", "What is the total?")
    assert (done.returncode, done.stdout) == (0, "13.60\n")
    assert done.stderr.count("\n") == 2
    assert "receipt.png: 320 x 190 pixels, 240 visual tokens" in done.stderr
    assert "built-in model" in done.stderr
    assert "--model Qwen/" in done.stderr


def test_an_unsure_answer_is_said_to_be_so(tmp_path):
    page = tmp_path / "noise.png"
    Image.effect_noise((320, 190), 90).save(page)
    done = rave("chat", "--image", page, "--prompt", "Describe the third paragraph.", "--json")
    certainty = json.loads(done.stdout)["certainty"]
    done = rave("chat", "--image", page, "--prompt", "Describe the third paragraph.")
    said = (
        f"Unsure (certainty {certainty:.2f}): compare it with the page; a full-size model reads better: --model Qwen/"
    )
    assert (said in done.stderr) is (certainty < 0.8)
    sure = rave("chat", "--image", DOCUMENTS / "receipt.png", "--prompt", "What is the total?")
    assert "Unsure" not in sure.stderr


@pytest.mark.parametrize(("certainty", "tokens", "said"), [(0.79, 48, True), (0.8, 3, False), (0.2, 49, False)])
def test_unsure_is_a_short_answer_with_an_unlikely_token(capsys, certainty, tokens, said):
    stats = TurnStats(100, 0, 0, 50, 1, tokens, 0.1, 10.0, certainty, 64, 64, 1)
    Repl(Session(rave_mlx.load()), built_in=False, json=False)._warn_if_unsure(stats)
    expected = f"Unsure (certainty {certainty:.2f}): compare it with the page\n" if said else ""
    assert capsys.readouterr().err == expected


def test_a_model_of_the_environment_is_not_called_the_built_in_one(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(BUILT_IN, other)
    done = rave("chat", "--prompt", "Hello", "--max-tokens", 3, RAVE_MLX_MODEL=str(other))
    assert done.returncode == 0
    assert "built-in" not in done.stderr


def test_another_image_gives_another_answer():
    done = rave("chat", "--image", DOCUMENTS / "order.png", "--prompt", "What is the total?")
    assert done.stdout == "$1,284.50\n"


def test_no_image_is_fine():
    done = rave("chat", "--prompt", "Hello", "--max-tokens", 5)
    assert done.returncode == 0


def test_json_and_pipes():
    lines = (
        f"What is the total?\n/image {DOCUMENTS / 'invoice.png'}\nBill to?\nWhat is the amount?\n/stats\n/exit\nnever\n"
    )
    done = rave_process("chat", "--image", DOCUMENTS / "receipt.png", "--json", stdin=lines)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["text"] for a in answers] == ["13.60", "Marco Rossi", "862.40 EUR"]
    assert [a["images_encoded"] for a in answers] == [1, 1, 0]
    assert {a["finish"] for a in answers} == {"stop"}
    assert "first_token_seconds" in done.stderr


def test_save_and_load(tmp_path):
    file = tmp_path / "talk.json"
    rave("chat", "--image", DOCUMENTS / "receipt.png", stdin=f"What is the total?\n/save {file}\n")
    done = rave("chat", stdin=f"/load {file}\nHow much is the sandwich?\n")
    assert done.stdout == "7.25\n"


def test_a_closed_pipe_is_quiet():
    command = f"{sys.executable} -c 'from rave_mlx.cli.main import run; run()' chat --help | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def bad(tmp_path, name):
    path = tmp_path / name
    if name == "directory.png":
        path.mkdir()
    elif name == "empty.png":
        path.write_bytes(b"")
    elif name == "text.png":
        path.write_text("not an image")
    elif name == "half.png":
        data = (DOCUMENTS / "receipt.png").read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif name == "narrow.png":
        write_image(form(["x"], (1200, 3)), path)
    return path


@pytest.mark.parametrize("name", ["missing.png", "directory.png", "empty.png", "text.png", "half.png", "narrow.png"])
def test_a_bad_image_is_one_line_and_exit_1(tmp_path, name):
    path = bad(tmp_path, name)
    done = rave("chat", "--image", path, "--prompt", "What?")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"rave-mlx: {path}")


def test_an_unreadable_image(tmp_path):
    path = write_image(form(["x"]), tmp_path / "secret.png")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    done = rave("chat", "--image", path, "--prompt", "What?")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "permission" in done.stderr.lower()


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["chat", "--imge", "x"], 2, "--imge"),
        (["chat", "--image-tokens", "0", "--prompt", "x"], 2, "image-tokens"),
        (["chat", "--temperature", "-1", "--prompt", "x"], 2, "temperature is -1"),
        (["chat", "--attention", "magic", "--prompt", "x"], 2, "magic"),
        (["nonsense"], 2, "nonsense"),
        (["chat"], 2, "nothing to answer"),
        (["chat", "--model", "/no/such/model", "--prompt", "x"], 1, "/no/such/model"),
        (["chat", "--prompt", "word " * 2000], 1, "context is 4096"),
        (["convert", "/no/such/model", "out"], 1, "/no/such/model"),
    ],
)
def test_mistakes_are_one_line(arguments, code, error):
    done = rave(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    assert error in done.stderr


def test_convert_refuses_what_is_converted_and_what_exists(tmp_path):
    model = BUILT_IN
    done = rave_process("convert", model, tmp_path / "out")
    assert (done.returncode, "is a rave directory already" in done.stderr) == (1, True)


@pytest.mark.parametrize("command", [[], ["chat"], ["convert"], ["doctor"]])
def test_every_help_page(command):
    done = rave(*command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


@pytest.mark.parametrize("script", ["one_shot.py", "conversation.py"])
def test_the_examples_run(script):
    done = subprocess.run([sys.executable, EXAMPLES / script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert ("13.60" if script == "one_shot.py" else "INV-7731") in done.stdout


def read_until(terminal, text, seconds=60):
    """What the program printed, up to the prompt that follows `text`: a key pressed before it would be lost."""
    shown, end = "", time.monotonic() + seconds
    while text not in shown or not shown.endswith("> "):
        assert time.monotonic() < end, shown
        if select.select([terminal], [], [], 0.5)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


def interrupt(program, terminal):
    """Ctrl-C at the prompt. One that comes just before the program waits for keys is only seen with the next key."""
    for _ in range(20):
        program.send_signal(signal.SIGINT)
        if select.select([terminal], [], [], 1)[0]:
            break
    read_until(terminal, "\n")


def test_a_conversation_on_a_terminal(tmp_path):
    """Prompt, answer, status line, command, Ctrl-C at the prompt, Ctrl-D."""
    parent, child = pty.openpty()
    program = subprocess.Popen(
        [*COMMAND, "chat", "--image", str(DOCUMENTS / "visitor.png")], stdin=child, stdout=child, stderr=child,
        env=os.environ | {"XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}, start_new_session=True,
        # A shell starts background jobs with Ctrl-C ignored, and a test run may be one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
    os.close(child)
    try:
        read_until(parent, "/help lists commands")
        os.write(parent, b"Name?\n")
        shown = read_until(parent, "peak")
        assert "Priya Patel" in shown
        assert "visual of" in shown
        os.write(parent, b"/nonsense\n")
        read_until(parent, "no such command")
        interrupt(program, parent)
        os.write(parent, b"Room?\n")
        assert "B-204" in read_until(parent, "peak")
        os.write(parent, b"\x04")
        assert program.wait(timeout=30) == 0
    finally:
        program.kill()
        os.close(parent)
    assert "Name?" in (tmp_path / "rave-mlx" / "history").read_text()


def test_texts_of_help_fit_a_terminal_of_80_columns():
    """Typer keeps the ends of their lines: a longer one would be broken twice."""
    commands = typer.main.get_command(app).commands
    assert len(commands) > 10
    for name, each in [*commands.items(), *commands["evaluate"].commands.items()]:
        lines = inspect.cleandoc(each.help or "").splitlines()[1:]
        assert [line for line in lines if len(line) > 78 and "[bold]" not in line] == [], name
