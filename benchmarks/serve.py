"""A server under load: `python benchmarks/serve.py throughput|load|disconnects [--address http://127.0.0.1:8080]`.

throughput: tokens a second and time to the first token with 1, 4 and 16 clients, each asking its own page, and two
questions about it. load: many clients at once for some time; every answer but the promised 429s has to be right, and
the server's memory has to stay where it is after the first third. disconnects: clients that go at a random moment;
then a question has to be answered. Without --address a server is started with the model of --model.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw, ImageFont

CHAT = "/v1/chat/completions"


@dataclass
class Asked:
    """What came of one request: its status (0: the connection broke), seconds to the first token and to the end."""

    status: int
    first: float = 0.0
    seconds: float = 0.0
    tokens: int = 0
    text: str = ""


@dataclass
class Tally:
    """What came of many."""

    asked: list[Asked] = field(default_factory=list)

    def report(self, seconds: float) -> dict[str, Any]:
        """The figures of what was answered."""
        answered = [one for one in self.asked if one.status == 200]
        whole, first = sorted(one.seconds for one in answered), sorted(one.first for one in answered)
        return {
            "statuses": dict(Counter(one.status for one in self.asked)),
            "requests_per_second": round(len(answered) / seconds, 2),
            "tokens_per_second": round(sum(one.tokens for one in answered) / seconds, 1),
            "first_token_p50": _percentile(first, 50), "first_token_p99": _percentile(first, 99),
            "seconds_p50": _percentile(whole, 50), "seconds_p99": _percentile(whole, 99),
        }  # fmt: skip


def page(number: int) -> tuple[str, str]:
    """A receipt as a data: URL, and its total; the same for the same number."""
    rng = random.Random(number)
    prices = [rng.randrange(100, 999) for _ in range(3)]
    lines = ["CORNER CAFE", *(f"{name} {price / 100:.2f}" for name, price in zip(("Coffee", "Cake", "Juice"), prices,
                                                                             strict=True))]  # fmt: skip
    total = f"{sum(prices) / 100:.2f}"
    image = Image.new("RGB", (320, 220), "white")
    for i, line in enumerate([*lines, f"Total {total}"]):
        ImageDraw.Draw(image).text((10, 8 + 36 * i), line, fill="black", font=ImageFont.load_default(20))
    file = io.BytesIO()
    image.save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode(), total


def body(number: int, text: str, tokens: int, **more: Any) -> dict[str, Any]:
    """The body of a question about a page."""
    content = [{"type": "image_url", "image_url": {"url": page(number)[0]}}, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    fields = {"messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True, **more}
    return {**fields, "stream_options": {"include_usage": True}}


async def ask(client: httpx.AsyncClient, asked: dict[str, Any]) -> Asked:
    """Ask, and measure."""
    began, found = time.perf_counter(), Asked(0)
    async with client.stream("POST", CHAT, json=asked) as answer:
        found.status = answer.status_code
        if answer.status_code != 200:
            await answer.aread()
            return found
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                found.status = 500
                return found
            if chunk.get("usage"):
                counts = chunk["usage"]
                found.tokens = counts.get("completion_tokens") or counts.get("output_tokens", 0)
            delta = chunk["choices"][0]["delta"] if chunk["choices"] else {}
            # The first chunk may say who speaks, before there is a token.
            if delta.get("content") or (chunk["choices"] and "role" not in delta):
                found.first = found.first or time.perf_counter() - began
            found.text += delta.get("content") or ""
    found.seconds = time.perf_counter() - began
    return found


async def throughput(
    address: str, model: str | None, tokens: int, rounds: int, more: dict[str, Any], pid: int | None = None
) -> None:
    """Figures for 1, 4 and 16 clients; `pid` is the server's, for its processor time."""
    named = {} if model is None else {"model": model}
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=httpx.Limits(max_connections=64)) as client:
        await ask(client, body(0, "Read all of it.", tokens, **named, **more))
        for clients in (1, 4, 16):
            tally = Tally()

            async def one(number: int, tally: Tally = tally, clients: int = clients) -> None:
                for turn in range(rounds):
                    place = 1000 * clients + 50 * turn + number
                    for text in ("Read all of it.", "What is the total of it?"):
                        tally.asked.append(await ask(client, body(place, text, tokens, **named, **more)))

            began, used = time.perf_counter(), processor_seconds(pid)
            await asyncio.gather(*(one(number) for number in range(clients)))
            report = tally.report(time.perf_counter() - began)
            report["cpu_seconds"] = round(processor_seconds(pid) - used, 2)
            print(json.dumps({"clients": clients, **report}), flush=True)


async def load(address: str, clients: int, seconds: float, more: dict[str, Any]) -> bool:
    """Many clients at once; whether all went as promised."""
    tally, until, memory = Tally(), 0.0, list[tuple[float, float]]()
    wrong: list[str] = []
    expected: dict[int, str] = {}
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=httpx.Limits(max_connections=clients)) as client:

        async def one(number: int) -> None:
            turn = 0
            while time.monotonic() < until:
                place = (number + turn) % 40
                asked, at = body(place, "What is the total?", 12, user=f"client {number}", **more), time.monotonic()
                try:
                    found = await ask(client, asked)
                except httpx.TransportError as error:
                    wrong.append(f"{error!r} after {time.monotonic() - at:.1f} s")
                    found = Asked(0)
                tally.asked.append(found)
                turn += 1
                if found.status == 429:
                    await asyncio.sleep(1 + random.random())
                elif found.status == 200 and expected.setdefault(place, found.text) != found.text:
                    wrong.append(f"page {place}: {found.text!r} and {expected[place]!r}")

        async def watch() -> None:
            while time.monotonic() < until:
                memory.append((time.monotonic(), await resident(address)))
                await asyncio.sleep(2)

        for place in range(40):  # what a request by itself gives
            expected[place] = (await ask(client, body(place, "What is the total?", 12, **more))).text
        right = sum(expected[place] == page(place)[1] for place in range(40))
        began, until = time.perf_counter(), time.monotonic() + seconds
        used = await figure(address, "process_cpu_seconds_total")
        await asyncio.gather(watch(), *(one(number) for number in range(clients)))
        taken = time.perf_counter() - began
        used = await figure(address, "process_cpu_seconds_total") - used
    settled = [size for _, size in memory[len(memory) // 3 :]]
    report = tally.report(taken)
    sizes = {"mb_first": memory[0][1], "mb_after_a_third": settled[0], "mb_most": max(settled), "mb_last": settled[-1]}
    said = {
        "clients": clients,
        "seconds": round(taken, 1),
        **report,
        "cpu_seconds": round(used, 1),
        "other_than_alone": wrong[:5],
    }
    print(json.dumps({**said, "right_totals_of_40": right, **{name: round(size) for name, size in sizes.items()}}))
    return set(report["statuses"]) <= {200, 429} and not wrong


async def disconnects(address: str, count: int) -> bool:
    """Clients that go at a random moment; whether the next question is answered as before."""
    rng = random.Random(0)
    limits = httpx.Limits(max_connections=32, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        before = await ask(client, body(1, "What is the total?", 12))
        slots = asyncio.Semaphore(16)

        async def one(number: int) -> None:
            async with slots:
                asked = ask(client, body(number % 40, "Read all of it.", 200, attention="rave"))
                with contextlib.suppress(TimeoutError, httpx.HTTPError):
                    await asyncio.wait_for(asked, rng.choice([0.001, 0.01, 0.05, 0.2, 0.5]) * rng.random())

        began = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(count)))
        taken = time.perf_counter() - began
        for _ in range(200):
            if not await open_answers(address):
                break
            await asyncio.sleep(0.1)
        left, after = await open_answers(address), await ask(client, body(1, "What is the total?", 12))
    print(json.dumps({"disconnects": count, "seconds": round(taken, 1), "open_after": left, "before": before.text,
                      "after": after.text, "mb": round(await resident(address))}))  # fmt: skip
    return before.text == after.text and not left


async def figure(address: str, name: str) -> float:
    """A figure of /metrics."""
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        found = re.search(rf"^{name} (\S+)$", (await client.get("/metrics")).text, re.MULTILINE)
    return 0.0 if found is None else float(found[1])


def processor_seconds(pid: int | None) -> float:
    """Processor time of a process so far; 0 where it is not known."""
    if pid is None or not Path(f"/proc/{pid}/stat").exists():
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def resident(address: str) -> float:
    """Megabytes of the server's memory."""
    return await figure(address, "process_resident_memory_bytes") / 1e6


async def open_answers(address: str) -> int:
    """Answers that are being written."""
    return int(await figure(address, "rave_answers_open"))


@contextlib.contextmanager
def server(arguments: list[str]) -> Iterator[str]:
    """A server of this package's own."""
    command = [sys.executable, "-c", "from rave_mlx.cli.entry import run; run()", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"http://\S+", line)
    if found is None:
        sys.exit(line)
    try:
        yield found[0]
    finally:
        process.terminate()
        print(process.stderr.read(), end="", file=sys.stderr)
        process.wait()


def main() -> int:
    """Measure what was asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=("throughput", "load", "disconnects"))
    options.add_argument("--address", help="of a server that runs, rave-mlx's or another one")
    options.add_argument("--model", help="for a server that is started")
    options.add_argument("--name", help="model that requests name")
    options.add_argument("--pid", type=int, help="of a server that runs, for its processor time")
    options.add_argument("--clients", type=int, default=200)
    options.add_argument("--seconds", type=float, default=120)
    options.add_argument("--count", type=int, default=1000)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--attention", help="policy that requests name")
    given = options.parse_args()
    more = {} if given.attention is None else {"attention": given.attention}
    arguments = [] if given.model is None else ["--model", given.model]
    with contextlib.nullcontext(given.address) if given.address else server(arguments) as address:
        if given.what == "throughput":
            asyncio.run(throughput(address, given.name, given.tokens, given.rounds, more, given.pid))
            return 0
        if given.what == "load":
            return 0 if asyncio.run(load(address, given.clients, given.seconds, more)) else 1
        return 0 if asyncio.run(disconnects(address, given.count)) else 1


def _percentile(values: list[float], share: float) -> float | None:
    """A percentile of sorted values, to the millisecond."""
    return round(values[min(len(values) - 1, int(len(values) * share / 100))], 3) if values else None


if __name__ == "__main__":
    sys.exit(main())
