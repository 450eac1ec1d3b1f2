"""`POST /v1/chat/completions`, as OpenAI's, with images, and with figures of our own under `rave`."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rave_mlx.generation.job import Job
from rave_mlx.serve.answering import Answering, while_connected
from rave_mlx.serve.body import read_json
from rave_mlx.serve.chat_fields import ChatFields
from rave_mlx.serve.chat_jobs import chat_jobs
from rave_mlx.serve.choice import Choice, Piece
from rave_mlx.serve.client_messages import read_client_messages
from rave_mlx.serve.context import Context
from rave_mlx.serve.engine import Update
from rave_mlx.serve.errors import ApiError
from rave_mlx.serve.event_stream import DONE, EventStream, event
from rave_mlx.serve.json_text import JsonResponse
from rave_mlx.serve.shelf import ServedModel
from rave_mlx.serve.token_chances import LikelyTokens, TokenTexts, entry
from rave_mlx.serve.tools import read_tools


class Watcher:
    """Adds the likeliest tokens to updates, from what the jobs' last processors have kept.

    Attributes:
        jobs: the request's, when they are made.
        texts: the bytes of tokens, where log-probabilities are asked for.
    """

    def __init__(self) -> None:
        self.jobs: Sequence[Job] = ()
        self.texts: TokenTexts | None = None
        self._places: dict[int, int] = {}

    def __call__(self, update: Update) -> Update:
        """An update with what it lacks; runs in the model thread."""
        watching = self.jobs[update.index].processors[-1:] if self.jobs else ()
        start = self._places.get(update.index, 0)
        self._places[update.index] = start + len(update.tokens)
        if not watching or not isinstance(watching[0], LikelyTokens):
            return update
        found = tuple(watching[0].at(start + i) for i in range(len(update.tokens)))
        return replace(update, likely=found)


async def chat_completions(context: Context, request: Request) -> Response:
    """Answer a conversation.

    Raises:
        ApiError: for what cannot be answered.
        ClientGoneError: when the client goes.
    """
    limits = context.settings.limits
    fields = await read_json(request, ChatFields, limits)
    model = context.shelf.check(fields.model)
    check_choices(fields.n or 1, limits.choices)
    tools = read_tools(fields.tools, fields.tool_choice)
    messages = await while_connected(
        request, read_client_messages(fields.messages, limits, remote_images=context.settings.remote_images)
    )  # fmt: skip
    watcher = Watcher()

    def make(served: ServedModel) -> Sequence[Job]:
        watcher.texts = TokenTexts(served.lmm) if fields.logprobs else None
        watcher.jobs = chat_jobs(served, fields, messages, tools, limits)
        return watcher.jobs

    client = context.client(request, (fields.model_extra or {}).get("user"))
    answering = Answering(
        context.engine, client, model, make, retry_after=context.retry_after(), seconds=limits.seconds, prepare=watcher
    )
    try:
        jobs = await while_connected(request, answering.started())
        chat = ChatAnswers(context, fields, model, answering, jobs, watcher.texts)
        if fields.stream:
            return EventStream(chat.events(), answering.close)
        return JsonResponse(await while_connected(request, chat.whole()))
    except BaseException:
        answering.close()
        raise


def check_choices(wanted: int, most: int) -> None:
    """Refuse more answers than a request may have.

    Raises:
        ApiError: naming the limit.
    """
    if wanted > most:
        raise ApiError(400, f"{wanted} answers are asked for, at most {most} are written for a request", param="n")


class ChatAnswers:
    """The answers of one chat completion, whole or as chunks.

    Args:
        context: the server.
        fields: of the request.
        model: its name.
        answering: where the answers come from.
        jobs: one a choice.
        texts: of tokens, where log-probabilities are asked for.
    """

    def __init__(
        self,
        context: Context,
        fields: ChatFields,
        model: str,
        answering: Answering,
        jobs: Sequence[Job],
        texts: TokenTexts | None,
    ):
        lmm = context.shelf.base.lmm  # adapters have the base model's tokens
        self._fields, self._model, self._answering = fields, model, answering
        names = [tool["function"]["name"] for tool in read_tools(fields.tools, fields.tool_choice)]
        stop = lmm.config.tokens.stop
        self._choices = [Choice(i, job, fields.stops, stop, names) for i, job in enumerate(jobs)]
        self._texts = texts
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    async def whole(self) -> dict[str, Any]:
        """The response, when all answers are there."""
        entries: list[list[dict[str, Any]]] = [[] for _ in self._choices]
        last: list[Piece | None] = [None] * len(self._choices)
        async for choice, piece in self._pieces():
            entries[choice.index] += self._entries(piece)
            last[choice.index] = piece
        choices = []
        for choice, ended in zip(self._choices, last, strict=True):
            assert ended is not None
            message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
            if ended.calls:
                message |= {"content": choice.text.strip() or None, "tool_calls": ended.calls}
            shown = {"content": entries[choice.index], "refusal": None} if self._texts else None
            finish = ended.finish
            choices.append({"index": choice.index, "message": message, "logprobs": shown, "finish_reason": finish})
        head = self._head("chat.completion")
        return {**head, "choices": choices, "usage": self._usage(), "rave": self._choices[0].figures()}

    async def events(self) -> AsyncGenerator[bytes]:
        """The response as events."""
        try:
            for choice in self._choices:
                yield self._chunk(choice, {"role": "assistant", "content": "", "refusal": None})
            async for choice, piece in self._pieces():
                if piece.text or piece.tokens:
                    yield self._chunk(choice, {"content": piece.text}, piece)
                if piece.calls:
                    calls = [{"index": n, **call} for n, call in enumerate(piece.calls)]
                    yield self._chunk(choice, {"tool_calls": calls})
                if piece.finish is not None:
                    yield self._chunk(choice, {}, finish=piece.finish)
            if self._fields.with_usage:
                yield event({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()})
        except ApiError as error:
            yield event(error.as_json())
        yield DONE

    async def _pieces(self) -> AsyncGenerator[tuple[Choice, Piece]]:
        """What comes of the answers, in the order in which it comes."""
        async for update in self._answering.updates(len(self._choices)):
            choice = self._choices[update.index]
            piece = choice.take(update)
            if piece.stopped:
                self._answering.cancel(choice.index)
            yield choice, piece

    def _chunk(
        self, choice: Choice, delta: dict[str, Any], piece: Piece | None = None, finish: str | None = None
    ) -> bytes:
        shown = {"content": self._entries(piece), "refusal": None} if self._texts and piece is not None else None
        content = self._head("chat.completion.chunk")
        content["choices"] = [{"index": choice.index, "delta": delta, "logprobs": shown, "finish_reason": finish}]
        if finish is not None:
            content["rave"] = choice.figures()
        if self._fields.with_usage:
            content["usage"] = None
        return event(content)

    def _entries(self, piece: Piece) -> list[dict[str, Any]]:
        if self._texts is None:
            return []
        return [entry(self._texts, shown.token, shown.likely) for shown in piece.tokens]

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model,
                "system_fingerprint": None}  # fmt: skip

    def _usage(self) -> dict[str, Any]:
        first = self._choices[0]
        return usage(
            len(first.job.prompt), sum(c.tokens for c in self._choices), first.figures()["prompt_tokens_reused"]
        )


def usage(prompt: int, written: int, reused: int) -> dict[str, Any]:
    """Token counts as OpenAI has them.

    Args:
        prompt: tokens that were read.
        written: tokens of all answers.
        reused: tokens of the prompt that were known.
    """
    return {
        "prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": reused},
    }  # fmt: skip
