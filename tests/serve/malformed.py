"""Malformed requests without end: `python tests/serve/malformed.py http://127.0.0.1:8080 1000` sends a thousand.

Each has to be answered with a 4xx and a reason for a person. None of them makes the server compute.
"""

from __future__ import annotations

import base64
import copy
import json
import random
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

PIXEL = base64.b64encode(
    base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC")
).decode()
CHAT = {
    "model": "rave-mlx-builtin",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                {"type": "text", "text": "?"},
            ],
        }
    ],
    "stream": False, "max_tokens": 1, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "seed": 1, "n": 1,
    "stop": ["a"], "logprobs": True, "top_logprobs": 1, "attention": "none", "image_tokens": 16,
    "response_format": {"type": "text"}, "repetition_penalty": 1.1,
}  # fmt: skip
LOOK = {"messages": CHAT["messages"], "compare": ["none"], "layers": "0-1", "heads": "0", "max_tokens": 1}
COMPLETION = {"prompt": "a", "max_tokens": 1, "stop": "b", "n": 1, "logprobs": 1, "temperature": 0.5}
WRONG: dict[type, list[Any]] = {
    str: [3, [], {}, True, ["x"], 1.5],
    bool: ["true", 1, [], {}, 0.0],
    int: ["1", 1.5, [], {}, True, -5, 1 << 70],
    float: ["0.5", [], {}, -1, 1e999, True],
    list: [3, {}, True, 1.5],
    dict: [3, [], "x", True],
}
FORM_PATHS = ("/v1/read", "/v1/extract", "/v1/pages")


@dataclass(frozen=True)
class Malformed:
    """A request that cannot be answered."""

    kind: str
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


def wrong_type(rng: random.Random) -> Malformed:
    """A field of another type, or out of its range."""
    path, valid = rng.choice([("/v1/chat/completions", CHAT), ("/v1/look", LOOK), ("/v1/completions", COMPLETION)])
    body = copy.deepcopy(valid)
    name = rng.choice(sorted(body))
    if name == "stop":
        body[name] = rng.choice([3, {}, True, [""], [3], "x" * 1001, ["x"] * 17])
    elif name in ("prompt", "compare"):
        body[name] = rng.choice([3, {}, True, [], [3], [None], [[1, 2]]])
    else:
        body[name] = rng.choice(WRONG[type(body[name])])
        if isinstance(body[name], int) and not isinstance(body[name], bool) and name == "seed":
            body[name] = "1"
    return Malformed(f"wrong type: {name}", path, json.dumps(body).replace("Infinity", "1e999").encode())


def wrong_message(rng: random.Random) -> Malformed:
    """A message, or a part of one, that is none."""
    body = copy.deepcopy(CHAT)
    message = body["messages"][0]
    image = message["content"][0]
    change: Callable[[], Any] = rng.choice([
        lambda: body["messages"].append(rng.choice([3, "x", [], {}, {"role": "user"}, {"content": "x"}])),
        lambda: message.update(role=rng.choice(["teacher", 3, "", None, "tool", "x" * 10_000])),
        lambda: message.update(content=rng.choice([None, 3, {}, True, [[]], [3], [{"type": "video"}]])),
        lambda: message.update({rng.choice(["images", "videos", "think", "x" * 99]): ["y"]}),
        lambda: message["content"].append(rng.choice([3, {}, {"type": "text"}, {"type": "text", "text": 3}])),
        lambda: image.update(image_url=rng.choice(["/etc/passwd", "", 3, [], {}, {"url": 3}, "file:///x", "data:x"])),
        lambda: image["image_url"].update(detail=rng.choice(["extreme", 3, []])),
        lambda: image.update({rng.choice(["page", "min_pixels", "resized_width"]): rng.choice([-1, 0, "x", 1.5, []])}),
        lambda: image["image_url"].update(url="data:image/png;base64," + rng.choice(["", "AAAA", "@@@", PIXEL[:40]])),
    ])  # fmt: skip
    change()
    return Malformed("message", "/v1/chat/completions", json.dumps(body).encode())


def unknown_field(rng: random.Random) -> Malformed:
    """A field that there is not, or that would change the answer."""
    path, valid = rng.choice([("/v1/chat/completions", CHAT), ("/v1/look", LOOK), ("/v1/completions", COMPLETION)])
    name = rng.choice(["temprature", "files", "presence_penalty", "logit_bias", "suffix", "a" * 500, "\u0000", "ü", ""])
    return Malformed("unknown field", path, json.dumps({**valid, name: rng.choice([1.5, "x", {"a": 1}])}).encode())


def broken_bytes(rng: random.Random) -> Malformed:
    """JSON that is cut off, has bytes that are no UTF-8 in it, is nested a hundred thousand times, or is none."""
    whole = json.dumps(CHAT).encode()
    place = rng.randrange(1, len(whole) - 1)
    body = rng.choice([
        whole[:place],
        whole[:place] + bytes([rng.randrange(0x80, 0xC0)]) + whole[place:],
        whole + whole,
        b"[" * rng.randrange(2_000, 200_000),
        b'{"messages":' * rng.randrange(2_000, 100_000),
        rng.randbytes(rng.randrange(1, 200)),
        b"",
        b'{"n": ' + b"9" * rng.randrange(4_500, 100_000) + b"}",
        json.dumps(CHAT).encode("utf-16"),
    ])  # fmt: skip
    return Malformed("bytes", rng.choice(["/v1/chat/completions", "/v1/look", "/v1/completions"]), body)


def wrong_kind(rng: random.Random) -> Malformed:
    """Another type of content."""
    kind = rng.choice(["text/plain", "application/xml", "application/json5", "multipart/form-data", "", "x" * 500])
    path = rng.choice(["/v1/chat/completions", "/v1/look", "/v1/completions", *FORM_PATHS])
    return Malformed("type", path, json.dumps(CHAT).encode(), {"Content-Type": kind})


def broken_form(rng: random.Random) -> Malformed:
    """A form that is cut off, without a file, or with fields that cannot be meant."""

    def part(name: str, data: bytes, file: str = "") -> bytes:
        more = f'; filename="{file}"' if file else ""
        return f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + data + b"\r\n"

    file, end = part("file", base64.b64decode(PIXEL), "a.png"), b"--x--\r\n"
    path = rng.choice(FORM_PATHS)
    body = rng.choice([
        part("file", b"no file") + end,
        part("fiel", b"x", "a.png") + end,
        file + part("pages", rng.choice([b"0", b"a", b"3-1", b"-1", b"", b"\xff"]) or b"0") + end,
        file + part(rng.choice(["path", "url", "schemas"]), b"x") + end,
        file + part("pages", b"1") + part("pages", b"2") + end,
        (file + end)[: rng.randrange(3, len(file) // 2)],
        b"--y\r\n" + file,
        rng.randbytes(100),
        b"",
        end,
    ])  # fmt: skip
    kind = rng.choice(
        ["multipart/form-data; boundary=x"] * 4 + ["multipart/form-data", "multipart/form-data; boundary="]
    )
    return Malformed("form", path, body, {"Content-Type": kind})


RAW = (
    b"GET /health\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
)
MAKERS = (wrong_type, wrong_message, unknown_field, broken_bytes, wrong_kind, broken_form)


def malformed(seed: int) -> Iterator[Malformed]:
    """Requests without end, the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield rng.choice(MAKERS)(rng)


def send(client: httpx.Client, request: Malformed) -> str | None:
    """Send a request; what is wrong with the answer, or None."""
    answer = client.post(request.path, content=request.body, headers=request.headers)
    if not 400 <= answer.status_code < 500:
        return f"status {answer.status_code}: {answer.text[:200]}"
    error = answer.json().get("error", {})
    if set(error) != {"message", "type", "param", "code"} or len(error["message"]) < 10 or "\n" in error["message"]:
        return f"no reason: {answer.text[:200]}"
    return None


def send_raw(address: str, data: bytes) -> int:
    """Send bytes that may be no HTTP; the status of the answer."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(data)
        said = connection.recv(4096)
    return int(said.split(b" ")[1])


def main(address: str, count: int, seed: int) -> int:
    """Send so many requests; the number of those that were not answered as they have to be."""
    kinds: Counter[str] = Counter()
    wrong = 0
    with httpx.Client(base_url=address, timeout=60) as client:
        for request, _ in zip(malformed(seed), range(count), strict=False):
            kinds[request.kind.partition(":")[0]] += 1
            if (problem := send(client, request)) is not None:
                wrong += 1
                print(request.kind, request.path, request.body[:300], problem, sep="\n  ")
    for data in RAW:
        if not 400 <= (status := send_raw(address, data)) < 500:
            wrong += 1
            print("raw", data[:100], status)
    print(f"{count} requests and {len(RAW)} of raw bytes, {wrong} not answered with a 4xx and a reason: {dict(kinds)}")
    return wrong


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)))
