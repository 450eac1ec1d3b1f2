"""The command line and the server of a model that two processes hold; what happens when one of them is gone."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from pathlib import Path

import pytest
from command import COMMAND, rave
from processes import ended, environments, needs_ring, start, start_all, written
from support import picture, tiny_model, write_image

from rave_mlx.config import GateConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
from running import running

pytestmark = needs_ring
QUESTION = {"messages": [{"role": "user", "content": "How are you?"}], "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return written(tiny_model(GateConfig(rank=4), num_layers=2), tmp_path_factory.mktemp("model") / "tiny")


def test_chat_says_what_it_says_alone(model, tmp_path):
    image = write_image(picture(24, 16), tmp_path / "page.png")
    asked = ("chat", "--model", model, "--image", image, "--max-tokens", 4, "--temperature", 1, "--seed", 3, "--json")
    alone = rave(*asked, "--prompt", "What is the total?")
    (code, said, _), other = ended(start_all(tmp_path, 2, *asked, "--prompt", "What is the total?"))
    assert (code, alone.returncode, other) == (0, 0, (0, "", ""))
    same = ("text", "finish", "prompt_tokens", "answer_tokens")
    assert [json.loads(said)[key] for key in same] == [json.loads(alone.stdout)[key] for key in same]


def test_a_server_answers_and_ends_with_all_processes(model, tmp_path):
    own, others = environments(tmp_path, 2)
    other = start([*COMMAND, "serve", "--model", str(model), "--port", "0"], others)
    with running("--model", model, **own) as server:
        other.send_signal(signal.SIGINT)  # what Ctrl-C means is said by the first
        request = urllib.request.Request(
            f"{server.address}/v1/chat/completions", json.dumps(QUESTION).encode(), {"Content-Type": "application/json"}
        )
        together = json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]
    assert ended([other]) == [(0, "", "")]
    alone = rave("chat", "--model", model, "--prompt", "How are you?", "--max-tokens", 4, "--json")
    assert together == json.loads(alone.stdout)["text"]


@pytest.mark.parametrize("killed", [0, 1])
def test_the_others_end_with_one_line_when_a_process_is_killed(model, tmp_path, killed):
    processes = start_all(tmp_path, 2, "chat", "--model", model, "--prompt", "How are you?", "--max-tokens", 4000)
    assert processes[0].stdout.read(1)  # it answers
    os.kill(processes[killed].pid, signal.SIGKILL)
    code, _, said = ended(processes)[1 - killed]
    # MLX's own ring may have said something, too, even at the beginning of the same line.
    why = ("and so its answers; start again", "and so the part of the model that it held; start all of them again")
    expected = f"process {killed} is gone, {why[killed]}"
    lines = [line[line.find("rave-mlx:") :] for line in said.splitlines() if "gone" in line]
    assert (code, lines) == (1, [f"rave-mlx: {expected}"])


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("chat", "--prompt", "x", "--model", "nothing/here/"), 1, "nothing/here/: no such model directory"),
        (("look", "--image", "x.png", "--prompt", "x"), 2, "look needs all heads of a layer in one process"),
    ],
)
def test_errors_are_said_once(arguments, code, line, tmp_path):
    (first, _, said), (_, _, other) = ended(start_all(tmp_path, 2, *arguments))
    assert (first, said.count("\n"), other) == (code, 1, "")
    assert line in said
