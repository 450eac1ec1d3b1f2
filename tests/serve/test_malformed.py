"""Malformed requests, each answered with a 4xx and a reason; `malformed.py` sends more of them."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

from serve.malformed import MAKERS, RAW, malformed, send, send_raw  # noqa: E402
from serve.running import question, running  # noqa: E402

COUNT = 120


@pytest.fixture(scope="module")
def server():
    """Whatever comes, it says nothing: the log is for what is wrong with the server."""
    with running() as started:
        yield started


def test_malformed_requests_are_told_what_is_wrong(server):
    kinds = set()
    with httpx.Client(base_url=server.address, timeout=60) as client:
        for request, _ in zip(malformed(1), range(COUNT), strict=False):
            kinds.add(request.kind.partition(":")[0])
            assert send(client, request) is None, (request.kind, request.body[:500])
    assert len(kinds) == len(MAKERS)


def test_bytes_that_are_no_http(server):
    for data in RAW:
        assert 400 <= send_raw(server.address, data) < 500, data[:100]


def test_the_server_is_well_after_that(server):
    body = {"messages": question(), "max_tokens": 8}
    answer = httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=60).json()
    assert answer["choices"][0]["message"]["content"] == "13.60"
