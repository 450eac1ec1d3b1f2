"""A real server process for tests: `with running(...) as address: ...`."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from command import COMMAND
from support import form

LINES = ["CORNER CAFE", "Coffee 4.50", "Cake 9.10", "Total 13.60"]


@dataclass
class Server:
    """A server that runs.

    Attributes:
        address: as http://127.0.0.1:PORT.
        process: its own.
        said: lines of its standard error so far.
    """

    address: str
    process: subprocess.Popen
    said: list[str] = field(default_factory=list)


@contextmanager
def running(*arguments, **environment) -> Iterator[Server]:
    """Start `rave-mlx serve` at a free port; ended by SIGTERM, after which it must leave with 0."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", *map(str, arguments)], stderr=subprocess.PIPE, text=True,
        stdin=subprocess.DEVNULL, env=os.environ | environment,
    )  # fmt: skip
    first = process.stderr.readline()
    found = re.search(r"http://\S+", first)
    if found is None:
        process.kill()
        raise AssertionError(first + process.stderr.read())
    server = Server(found[0], process)
    reader = threading.Thread(target=lambda: server.said.extend(process.stderr), daemon=True)
    reader.start()
    try:
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        reader.join(5)
    assert (code, server.said) == (0, []), f"exit code {code}: {server.said}"


def png(image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def url(image) -> str:
    """A picture as a data: URL."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def receipt(lines=LINES):
    """A picture that the built-in model reads without doubt."""
    return form(list(lines), (320, 200), 18)


def question(text="What is the total?", *images) -> list[dict]:
    """Messages with pictures, the receipt by default."""
    parts = [{"type": "image_url", "image_url": {"url": url(image)}} for image in images or (receipt(),)]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
