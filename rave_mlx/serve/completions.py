"""`POST /v1/completions`: a text is gone on with, without the chat template."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rave_mlx.generation.job import Job
from rave_mlx.serve.answering import Answering, while_connected
from rave_mlx.serve.body import read_json
from rave_mlx.serve.chat import Watcher, check_choices, usage
from rave_mlx.serve.chat_fields import CompletionFields
from rave_mlx.serve.chat_jobs import completion_jobs
from rave_mlx.serve.choice import Choice, Piece
from rave_mlx.serve.context import Context
from rave_mlx.serve.errors import ApiError
from rave_mlx.serve.event_stream import DONE, EventStream, event
from rave_mlx.serve.json_text import JsonResponse
from rave_mlx.serve.shelf import ServedModel
from rave_mlx.serve.token_chances import LEAST, TokenTexts, log


async def completions(context: Context, request: Request) -> Response:
    """Go on with texts.

    Raises:
        ApiError: for what cannot be answered.
        ClientGoneError: when the client goes.
    """
    limits = context.settings.limits
    fields = await read_json(request, CompletionFields, limits)
    model = context.shelf.check(fields.model)
    check_choices((fields.n or 1) * len(fields.prompts), limits.choices)
    watcher = Watcher()

    def make(served: ServedModel) -> Sequence[Job]:
        watcher.texts = None if fields.logprobs is None else TokenTexts(served.lmm)
        watcher.jobs = completion_jobs(served, fields, limits)
        return watcher.jobs

    client = context.client(request, (fields.model_extra or {}).get("user"))
    answering = Answering(
        context.engine, client, model, make, retry_after=context.retry_after(), seconds=limits.seconds, prepare=watcher
    )
    try:
        jobs = await while_connected(request, answering.started())
        texts = Completions(context, fields, model, answering, jobs, watcher.texts)
        if fields.stream:
            return EventStream(texts.events(), answering.close)
        return JsonResponse(await while_connected(request, texts.whole()))
    except BaseException:
        answering.close()
        raise


class Completions:
    """The continuations of one request, whole or as chunks.

    Args:
        context: the server.
        fields: of the request.
        model: its name.
        answering: where the texts come from.
        jobs: one a choice.
        texts: of tokens, where log-probabilities are asked for.
    """

    def __init__(
        self,
        context: Context,
        fields: CompletionFields,
        model: str,
        answering: Answering,
        jobs: Sequence[Job],
        texts: TokenTexts | None,
    ):
        stop = context.shelf.base.lmm.config.tokens.stop
        self._fields, self._model, self._answering, self._texts = fields, model, answering, texts
        self._choices = [Choice(i, job, fields.stops, stop) for i, job in enumerate(jobs)]
        self._id, self._created = f"cmpl-{uuid.uuid4().hex}", int(time.time())

    async def whole(self) -> dict[str, Any]:
        """The response, when all texts are there."""
        shown: list[list[Piece]] = [[] for _ in self._choices]
        async for choice, piece in self._pieces():
            shown[choice.index].append(piece)
        choices = [
            {
                "index": choice.index,
                "text": choice.text,
                "logprobs": self._logprobs(shown[choice.index], 0),
                "finish_reason": shown[choice.index][-1].finish,
            }
            for choice in self._choices
        ]
        return {**self._head(), "choices": choices, "usage": self._usage(), "rave": self._choices[0].figures()}

    async def events(self) -> AsyncGenerator[bytes]:
        """The response as events."""
        try:
            async for choice, piece in self._pieces():
                if piece.text or piece.tokens or piece.finish is not None:
                    yield self._chunk(choice, piece)
            if self._fields.with_usage:
                yield event({**self._head(), "choices": [], "usage": self._usage()})
        except ApiError as error:
            yield event(error.as_json())
        yield DONE

    async def _pieces(self) -> AsyncGenerator[tuple[Choice, Piece]]:
        async for update in self._answering.updates(len(self._choices)):
            choice = self._choices[update.index]
            piece = choice.take(update)
            if piece.stopped:
                self._answering.cancel(choice.index)
            yield choice, piece

    def _chunk(self, choice: Choice, piece: Piece) -> bytes:
        logprobs = self._logprobs([piece], len(choice.text) - len(piece.text))
        content = self._head()
        content["choices"] = [
            {"index": choice.index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}
        ]
        if piece.finish is not None:
            content["rave"] = choice.figures()
        return event(content)

    def _logprobs(self, pieces: Sequence[Piece], offset: int) -> dict[str, Any] | None:
        """The older form of log-probabilities: lists side by side."""
        if self._texts is None:
            return None
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for shown in (shown for piece in pieces for shown in piece.tokens):
            found["tokens"].append(self._name(shown.token.id))
            found["token_logprobs"].append(log(shown.token.probability))
            found["top_logprobs"].append({self._name(index): max(LEAST, score) for index, score in shown.likely})
            found["text_offset"].append(offset)
            offset += len(shown.token.text)
        return found

    def _name(self, index: int) -> str:
        assert self._texts is not None
        return self._texts.of(index).decode("utf-8", "replace")

    def _head(self) -> dict[str, Any]:
        return {"id": self._id, "object": "text_completion", "created": self._created, "model": self._model,
                "system_fingerprint": None}  # fmt: skip

    def _usage(self) -> dict[str, Any]:
        per_prompt = self._choices[:: self._fields.n or 1]
        read = sum(len(choice.job.prompt) for choice in per_prompt)
        reused = sum(choice.figures()["prompt_tokens_reused"] for choice in per_prompt)
        return usage(read, sum(choice.tokens for choice in self._choices), reused)
