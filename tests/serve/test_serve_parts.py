"""Parts of the server by themselves: stop texts, the fair line, public addresses, downloads."""

from __future__ import annotations

import http.server
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi")

from serve.running import png, receipt

from rave_mlx.serve import remote_images
from rave_mlx.serve.errors import ApiError
from rave_mlx.serve.fair_queue import FairQueue, QueueFullError
from rave_mlx.serve.remote_images import fetch, is_public
from rave_mlx.serve.settings import Limits
from rave_mlx.serve.stop_text import StopText
from rave_mlx.serve.tools import CallText

TEXTS = st.text("abc", max_size=5)


@given(st.lists(TEXTS, max_size=8), st.lists(st.text("abc", min_size=1, max_size=3), max_size=3))
@settings(max_examples=500, deadline=None)
def test_a_stop_text_ends_the_text_wherever_tokens_end(pieces, stops):
    """The text up to the stop text that is complete first; nothing is shown that is taken back, and soon enough."""
    watch, out, entries = StopText(stops), "", []
    for number, piece in enumerate(pieces):
        more, going = watch.add(piece, number)
        out, entries = out + more, entries + going
        whole = "".join(pieces[: number + 1])
        if not watch.found:
            held = len(whole) - len(out)
            assert held == 0 or any(stop.startswith(whole[-held:]) and len(stop) > held for stop in stops)
    more, going = watch.finish()
    out, entries = out + more, entries + going
    whole = "".join(pieces)
    ends = [(whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole]
    assert out == (whole[: min(ends)[1]] if ends else whole)
    assert watch.found == bool(ends)
    assert entries == list(range(len(entries)))
    if not ends:
        assert len(entries) == len(pieces)
    assert sum(len(pieces[i]) for i in entries) >= len(out)


@given(st.lists(st.integers(1, 7)), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_calls_are_told_from_text_wherever_tokens_end(cuts, repeat):
    call = '<tool_call>\n{"name": "f", "arguments": {"a": "é"}}\n</tool_call>\n'
    text, pieces = "I look <tool" + call * repeat, []
    for cut in cuts:
        pieces.append(text[sum(map(len, pieces)) :][:cut])
    pieces.append(text[sum(map(len, pieces)) :])
    watch = CallText(["f"])
    out = "".join(map(watch.add, pieces))
    rest, calls = watch.finish()
    assert out + rest == "I look <tool"
    assert [one["function"] for one in calls] == [{"name": "f", "arguments": '{"a": "é"}'}] * repeat
    other = CallText(["g"])
    assert other.add(text) + other.finish()[0] == text


def test_clients_take_turns_and_keep_their_order():
    queue = FairQueue(10)
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.put(item[0], item)
    assert [queue.take() for _ in range(6)] == ["a1", "b1", "c1", "a2", "c2", "a3"]
    for number in range(7):
        queue.put("a", number)
    with pytest.raises(QueueFullError):
        queue.put("a", 7)
    for number in range(3):
        queue.put("b", number)
    with pytest.raises(QueueFullError):
        queue.put("c", 0)
    assert queue.discard(3)
    assert not queue.discard(3)
    queue.put("c", 0)
    queue.close()
    with pytest.raises(QueueFullError):
        queue.put("d", 0)
    assert len(list(iter(queue.take, None))) == 10


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        *((address, False) for address in (
            "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
            "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::",
            "fe80::1", "fe80::1%eth0",
            "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
            "64:ff9b::7f00:1", "2002:7f00:1::", "x", "",
        )),
    ],
)  # fmt: skip
def test_public_addresses(address, public):
    assert is_public(address) is public


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "127.1", "0"],
)
def test_this_machine_is_not_fetched_from_in_any_notation(address):
    with pytest.raises(ApiError, match="on this machine or its network|host that is not found"):
        fetch(f"http://{address}:9/x.png", Limits())


class _Files(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow-head":
            for _ in range(40):
                self.wfile.write(b"HTTP/1.1 200 OK\r\n"[_ : _ + 1])
                time.sleep(0.3)
        kind, data, status = "image/png", png(receipt()), 200
        if self.path == "/page":
            kind = "text/html"
        if self.path == "/large":
            data = b"x" * (3 << 20)
        self.send_response(302 if self.path == "/moved" else 404 if self.path == "/none" else status)
        self.send_header("Content-Type", kind)
        self.send_header("Location", "/there")
        self.end_headers()
        if self.path == "/slow":
            for _ in range(40):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def files():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_downloads_are_limited(files, monkeypatch):
    """With this machine taken for a public one."""
    monkeypatch.setattr(remote_images, "is_public", lambda address: True)
    limits = Limits(download_bytes=1 << 20, download_seconds=1.0)
    assert fetch(f"{files}/there?x=1", limits) == png(receipt())
    for path, message in (
        ("/moved", "sends on to another address"),
        ("/none", "answers with status 404"),
        ("/page", "is text/html, not an image"),
        ("/large", "is larger than 1 MiB"),
        ("/slow", "did not answer within 1 s"),
        ("/slow-head", "did not answer within 1 s"),
    ):
        with pytest.raises(ApiError, match=message):
            fetch(files + path, limits)
    for address in ("http://user:x@example.org/x.png", "http:///x.png", "http://[x/y.png", "http://x:99999/y"):
        with pytest.raises(ApiError, match="is not taken|is no address"):
            fetch(address, limits)
    with pytest.raises(ApiError, match="cannot be fetched"):
        fetch(files.replace("http", "https"), limits)
