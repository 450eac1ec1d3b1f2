"""The command: its help, what it refuses to start with, how it ends."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time

import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

from command import rave  # noqa: E402
from serve.running import running  # noqa: E402


def test_help_names_what_matters():
    shown = rave("serve", "--help").stdout
    for text in ("rave-mlx serve", "--host", "--api-key", "--adapter", "--allow-remote-images", "--queue", "127.0.0.1"):
        assert text in shown
    assert "serve" in rave("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others could reach the server; give --api-key, or stay at 127.0.0.1"),
        (["--host", "0.0.0.0", "--api-key", "short"], "--api-key must be 8 ASCII characters or more"),
        (["--host", "no.such.host.invalid", "--api-key", "long enough"], "choose another address"),
        (["--port", "70000"], "--port is 70000"),
        (["--adapter", "a:b=x"], "--adapter a:b=x: write NAME=DIR"),
        (["--adapter", "a=/no/such"], "--adapter a=/no/such: no such folder"),
        (["--adapter", "a=/tmp", "--adapter", "a=/tmp"], "--adapter a is given twice"),
        (["--name", "a:b"], "a name is text without a colon"),
        (["--model", "/no/such/model"], "no such model directory"),
    ],
)
def test_what_it_does_not_start_with_is_one_line(arguments, message):
    ended = rave("serve", "--port", "0", *arguments)
    assert ended.returncode in (1, 2)
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("rave-mlx: ")
    assert message in line


def test_a_port_in_use_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = rave("serve", "--port", port)
    assert ended.returncode == 1
    assert ended.stderr == f"rave-mlx: port {port} is in use; end what uses it, or choose another --port\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_answer_that_is_written(number):
    schema = {"type": "string", "pattern": "^[a-z]{100}$"}
    body = {
        "messages": [{"role": "user", "content": "Go"}], "max_tokens": 110, "attention": "none",
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    }  # fmt: skip
    found = []
    with running() as server:

        def ask():
            found.append(httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=60))

        asking = threading.Thread(target=ask)
        asking.start()
        while "rave_answers_open 1.0" not in httpx.get(f"{server.address}/metrics").text:
            time.sleep(0.02)
        server.process.send_signal(number)
        asking.join()
        assert server.process.wait(30) == 0
    assert len(found[0].json()["choices"][0]["message"]["content"]) == 102


def test_the_openapi_description_names_every_route():
    with running("--name", "mine") as server:
        described = httpx.get(f"{server.address}/openapi.json").json()
        assert httpx.get(f"{server.address}/v1/models").json()["data"][0]["id"] == "mine"
    assert set(described["paths"]) == {
        "/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{name}", "/v1/look", "/v1/read",
        "/v1/extract", "/v1/pages", "/v1/settings", "/health", "/metrics",
    }  # fmt: skip
    fields = described["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"messages", "stop", "seed", "response_format", "attention"} <= set(fields["properties"])
    assert "$ref" not in str(fields)
    assert re.fullmatch(r"3\.\d+\.\d+", described["openapi"])
