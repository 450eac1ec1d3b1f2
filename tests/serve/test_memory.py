"""What a request brought is freed when it is answered, not when the garbage collector comes."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

pytest.importorskip("fastapi")

import httpx
import numpy as np
from serve.running import question

import rave_mlx
from rave_mlx.inputs.images.patches import ImagePatches
from rave_mlx.serve.app import make_app
from rave_mlx.serve.context import Context
from rave_mlx.serve.settings import ServeSettings
from rave_mlx.serve.shelf import Shelf


def pictures_in_memory() -> int:
    """Bytes of pixels that prompts hold; arrays that are views count as what they keep alive."""
    patches = [x for x in gc.get_objects() if isinstance(x, ImagePatches)]
    return sum(_whole(x.pixels).nbytes for x in patches)


def _whole(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


async def ask(context: Context, bodies: list[dict]) -> list[httpx.Response]:
    transport = httpx.ASGITransport(make_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
        return await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for body in bodies))


@pytest.fixture
def context():
    made = Context.make(Shelf("rave-mlx-builtin", rave_mlx.load()), ServeSettings())
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"max_tokens": 0}, {"logprobs": True, "n": 2}])
def test_pictures_of_answered_requests_are_freed_at_once(context, more):
    body = {"messages": question(), "max_tokens": 4, **more}
    gc.collect()
    before = pictures_in_memory()
    gc.disable()
    try:
        answers = asyncio.run(ask(context, [body] * 5))
        assert {answer.status_code for answer in answers} == {400 if more == {"max_tokens": 0} else 200}
        until = time.monotonic() + 10
        while pictures_in_memory() > before and time.monotonic() < until:
            time.sleep(0.05)
        assert pictures_in_memory() == before
    finally:
        gc.enable()
