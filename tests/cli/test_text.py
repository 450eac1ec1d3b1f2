"""Bytes in, characters out, and interrupts: nothing is lost, made up, or ends in a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import COMMAND, rave, rave_process

RECEIPT = Path(__file__).parents[2] / "examples" / "documents" / "receipt.png"
INSTALLED = Path(sys.executable).with_name("rave-mlx")


def piped(text: bytes, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [*COMMAND, "chat", "--image", str(RECEIPT), *arguments]
    return subprocess.run(command, input=text, capture_output=True, check=False, env=os.environ | environment)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_questions_that_are_no_utf8_are_refused_in_one_line(locale):
    done = piped("What is the total?\nCaf\xe9?\n".encode("latin-1"), LC_ALL=locale)
    assert done.returncode == 2
    lines = done.stderr.decode().splitlines()
    assert lines[-1] == "rave-mlx: standard input: the bytes e9 are not UTF-8 text; convert the questions to UTF-8"
    assert b"Traceback" not in done.stderr


def test_a_byte_order_mark_and_line_ends_of_windows_do_not_matter():
    done = piped("\ufeffWhat is the total?\r\n".encode())
    assert (done.returncode, done.stdout) == (0, b"13.60\n")


def test_a_question_with_other_bytes_as_argument_is_refused():
    done = piped(b"", "--prompt", os.fsdecode(b"caf\xe9"))
    assert done.returncode == 1
    assert b"has bytes that are not UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "Preis: 5€"), ("latin-1", "Preis: 5\\u20ac")])
def test_characters_that_the_output_does_not_have_are_escaped(encoding, shown):
    code = "import sys; from rave_mlx.cli.main import _never_lose_text; _never_lose_text(); print('Preis: 5\u20ac')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=os.environ | {"PYTHONIOENCODING": encoding}
    )
    assert done.stdout.decode(encoding).strip() == shown


def test_a_command_is_asked_for_where_there_is_none():
    done = rave_process()
    assert done.returncode == 2
    assert "Commands" in done.stdout
    assert done.stderr == "rave-mlx: give a command, for example: rave-mlx chat --image page.png\n"


def test_completion_can_be_shown():
    done = rave("--show-completion", "bash")
    assert "_RAVE_MLX_COMPLETE=complete_bash" in done.stdout


@pytest.mark.parametrize(
    "module", ["typer", "rave_mlx.cli.train", "rave_mlx.errors", "mlx.core", "rave_mlx.api", "PIL"]
)
def test_an_interrupt_while_a_module_loads_is_quiet(module):
    """As installed: the command's first line of ours is `entry.run`, and everything is imported after it."""
    code = f"""
import sys
from rave_mlx.cli.entry import run

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt

assert {module!r} not in sys.modules
sys.meta_path.insert(0, Interrupt())
sys.argv = ["rave-mlx", "chat", "--image", {str(RECEIPT)!r}, "--prompt", "What is the total?"]
run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.skipif(not INSTALLED.exists(), reason="the command is not installed beside this Python")
@pytest.mark.parametrize("delay", [0.3, 0.6, 1.2])
def test_an_interrupt_of_the_installed_command_is_quiet(delay):
    command = [str(INSTALLED), "chat", "--image", str(RECEIPT), "--prompt", "What is the total?"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    # Before a line of ours has run, Python itself reports the interrupt.
    assert b"rave_mlx/cli" not in errors
