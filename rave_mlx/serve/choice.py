"""One answer of a request on its way to the client: its text, why it ended, its figures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rave_mlx.generation.job import Answer, Job, NewToken
from rave_mlx.serve.engine import Update
from rave_mlx.serve.errors import from_rave
from rave_mlx.serve.stop_text import StopText
from rave_mlx.serve.tools import CallText

_FINISH = {"stop": "stop", "length": "length", "repetition": "stop", "cancelled": "stop"}


@dataclass(frozen=True)
class ShownToken:
    """A token whose text goes out, and what was likely in its place."""

    token: NewToken
    likely: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class Piece:
    """What goes out at once.

    Attributes:
        text: new characters.
        tokens: that go with them.
        finish: why the answer ended, if it has.
        stopped: whether a stop text came just now: the model has to be told.
        calls: of tools, with which the answer ended.
    """

    text: str
    tokens: Sequence[ShownToken]
    finish: str | None = None
    stopped: bool = False
    calls: list[dict[str, Any]] | None = None


class Choice:
    """An answer.

    Args:
        index: which of the request's.
        job: what the model was asked.
        stops: texts that end it.
        control: ids of tokens that are no text: the stop tokens.
        tools: names of the tools that the answer may call.

    Attributes:
        text: what went out.
        tokens: how many tokens were written, the stop token included.
        answer: what the model wrote, when it has ended.
    """

    def __init__(self, index: int, job: Job, stops: Sequence[str], control: Sequence[int], tools: Sequence[str] = ()):
        self.index, self.job, self.text, self.tokens = index, job, "", 0
        self.answer: Answer | None = None
        self._control = frozenset(control)
        self._stop = StopText[ShownToken](stops)
        self._calls = CallText(tools) if tools else None
        self._least = 1.0
        self._first = self._last = 0.0

    def take(self, update: Update) -> Piece:
        """What goes out after an update.

        Raises:
            ApiError: when the model could not go on.
        """
        was_found, finish, calls = self._stop.found, None, None
        text, shown = self._written(update)
        if update.answer is not None:
            self.answer, error = update.answer, update.answer.error
            if error is not None:
                raise from_rave(error)
            more, entries = self._stop.finish()
            text, shown = text + more, shown + entries
            finish = "stop" if self._stop.found else _FINISH[update.answer.ending]
        if self._calls is not None:
            text = self._calls.add(text)
            if finish is not None:
                rest, calls = self._calls.finish()
                text, finish = text + rest, "tool_calls" if calls else finish
        self.text += text
        return Piece(text, shown, finish, self._stop.found and not was_found, calls)

    def _written(self, update: Update) -> tuple[str, list[ShownToken]]:
        """The text of an update up to a stop text, and the tokens that go with it."""
        text, shown = "", list[ShownToken]()
        likely = update.likely or ((),) * len(update.tokens)
        for token, others in zip(update.tokens, likely, strict=False):
            if self._stop.found:
                break
            self._count(token)
            if token.id not in self._control:
                more, entries = self._stop.add(token.text, ShownToken(token, others))
                text, shown = text + more, shown + entries
        return text, shown

    def figures(self) -> dict[str, Any]:
        """How certain and how fast it was; the `rave` object of a response."""
        answer, prompt = self.answer, self.job.prompt
        seconds = self._last - self._first
        return {
            "certainty": round(self._least if self.tokens else 0.0, 4),
            "visual_tokens": prompt.visual_tokens,
            "prompt_tokens_reused": 0 if answer is None else answer.reused,
            "prefill_seconds": round(0.0 if answer is None else answer.prefill_seconds, 4),
            "tokens_per_second": round((self.tokens - 1) / seconds, 2) if seconds > 0 else None,
            "ending": None if answer is None else "stop" if self._stop.found else answer.ending,
        }

    def _count(self, token: NewToken) -> None:
        self._last = time.monotonic()
        self._first = self._first or self._last
        self.tokens += 1
        self._least = min(self._least, token.probability)
