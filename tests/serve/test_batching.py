"""Many requests at a time: the same answers as one by one, a full line, clients that go."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time

import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402
from serve.running import question, receipt, running  # noqa: E402

CHAT = "/v1/chat/completions"
QUESTIONS = ["What is the total?", "Coffee?", "Cake?", "What is the price of the cake?", "Total?", "Who sells it?"]


@pytest.fixture(scope="module")
def server():
    with running("--queue", 12, "--batch-size", 4) as started:
        yield started


def long(tokens=300, **fields):
    """The body of a request whose answer has so many characters, and tokens."""
    schema = {"type": "string", "pattern": f"^[a-z]{{{tokens}}}$"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    messages = [{"role": "user", "content": "Go"}]
    return {"messages": messages, "response_format": form, "max_tokens": tokens + 5, "attention": "none", **fields}


def figures(server):
    """The samples of /metrics by name and sorted labels."""
    text = httpx.get(f"{server.address}/metrics").text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def settle(server, seconds=20.0):
    """Wait until nobody waits and nothing is written."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        now = figures(server)
        if not now["rave_requests_waiting",] and not now["rave_answers_open",]:
            return now
        time.sleep(0.05)
    raise AssertionError("answers are still being written")


def test_answers_of_a_batch_are_those_of_single_requests(server):
    """Ids, which the log-probabilities name, and those up to rounding; greedy, drawn, and held to a schema."""
    other = receipt(["SOUTH BAKERY", "Bread 3.20", "Rolls 1.80", "Total 5.00"])
    bodies = [{"messages": question(text), "max_tokens": 16, "attention": "rave"} for text in QUESTIONS]
    bodies += [{"messages": question(QUESTIONS[0], other), "max_tokens": 16}]
    bodies += [{"messages": question(), "max_tokens": 16, "temperature": 1.5, "seed": 3, "attention": "none"}, long(40)]
    bodies = [{**body, "logprobs": True, "top_logprobs": 1} for body in bodies]

    def written(answer):
        entries = answer["choices"][0]["logprobs"]["content"]
        return [tuple(entry["bytes"]) for entry in entries], [entry["logprob"] for entry in entries]

    async def every_at_once():
        async with httpx.AsyncClient(base_url=server.address, timeout=120) as client:
            return await asyncio.gather(*(client.post(CHAT, json=body) for body in bodies))

    single = [written(httpx.post(server.address + CHAT, json=body, timeout=120).json()) for body in bodies]
    together = [written(answer.json()) for answer in asyncio.run(every_at_once())]
    for (ids, chances), (ids_among, chances_among) in zip(single, together, strict=True):
        assert ids == ids_among
        assert chances == pytest.approx(chances_among, abs=1e-3)


def test_a_short_question_does_not_wait_for_a_long_answer(server):
    client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="x", max_retries=0)
    fields = long(250)
    extra = {"attention": fields.pop("attention")}
    stream = client.chat.completions.create(model="rave-mlx-builtin", stream=True, extra_body=extra, **fields)
    seen = 0
    for chunk in stream:
        seen += len(chunk.choices[0].delta.content or "")
        if seen > 20:
            break
    short = httpx.post(
        server.address + CHAT, json={"messages": question(), "max_tokens": 8, "attention": "none"}, timeout=60
    )
    assert short.status_code == 200
    rest = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert seen + len("".join(rest)) == 252
    assert len(rest) > 20


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_is_given_up_when_its_client_goes(server, stream):
    before = settle(server)
    host, port = server.address.removeprefix("http://").split(":")
    body = json.dumps(long(3000, stream=stream)).encode()
    head = (f"POST {CHAT} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n")  # fmt: skip
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode() + body)
        until = time.monotonic() + 20
        while not figures(server)["rave_answers_open",] and time.monotonic() < until:
            time.sleep(0.02)
    after = settle(server, 10)
    key = "rave_answers_total", "cancelled", "rave-mlx-builtin"
    assert after[key] == before.get(key, 0) + 1


def test_random_disconnects_leave_the_server_well(server):
    """Clients that go at any moment: while they send, wait, or receive."""
    rng = random.Random(0)
    host, port = server.address.removeprefix("http://").split(":")
    bodies = [json.dumps(long(200, stream=n % 2 == 0)).encode() for n in range(2)]
    for n in range(40):
        body = bodies[n % 2]
        head = (f"POST {CHAT} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode()  # fmt: skip
        with socket.create_connection((host, int(port))) as client:
            whole = head + body
            client.sendall(whole[: rng.choice([len(whole), len(whole), rng.randrange(len(whole))])])
            time.sleep(rng.choice([0, 0.01, 0.05]))
    settle(server)
    answer = httpx.post(server.address + CHAT, json={"messages": question(), "max_tokens": 8}, timeout=60)
    assert answer.json()["choices"][0]["message"]["content"] == "13.60"


def test_a_full_line_turns_away_and_says_when_to_come_back(server):
    settle(server)

    async def many():
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=server.address, timeout=120, limits=limits) as client:
            return await asyncio.gather(*(client.post(CHAT, json=long(30)) for _ in range(40)))

    answers = asyncio.run(many())
    away = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert 40 > len(away) >= 40 - 12 - 4 - 8
    for answer in away:
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.json()["error"]["code"] == "queue_full"
    texts = {answer.json()["choices"][0]["message"]["content"] for answer in answers if answer.status_code == 200}
    assert len(texts) == 1


def test_a_repeated_page_is_not_read_again(server):
    fresh = receipt(["NORTH SHOP", "Milk 2.20", "Total 2.20"])

    def read(text):
        body = {"messages": question(text, fresh), "max_tokens": 4, "attention": "rave"}
        return httpx.post(server.address + CHAT, json=body, timeout=60).json()

    first, again = read("Total?"), read("Milk?")
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] < first["rave"]["visual_tokens"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > again["rave"]["visual_tokens"]
    assert again["rave"]["prefill_seconds"] < first["rave"]["prefill_seconds"]
