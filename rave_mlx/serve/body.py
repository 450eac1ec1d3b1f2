"""Reading a request's body within the limits of size and time: JSON into checked fields, multipart into files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from rave_mlx.serve.answering import ClientGoneError
from rave_mlx.serve.errors import ApiError
from rave_mlx.serve.json_text import from_bytes
from rave_mlx.serve.settings import Limits

M = TypeVar("M", bound=BaseModel)
_MOST_FILES = 64
_FIELD_BYTES = 1 << 20
_DRAIN_BYTES, _DRAIN_SECONDS = 256 << 20, 5.0
"""What is read and thrown away of a body that is too large, so that the client is done sending and sees why."""


@dataclass(frozen=True, eq=False)
class Upload:
    """A file of a form: its name, for messages, and its bytes."""

    name: str
    data: bytes


async def read_json(request: Request, model: type[M], limits: Limits) -> M:
    """The checked fields of a JSON body.

    Raises:
        ApiError: for another type (415), too many bytes (413), a body that takes too long (408), and for what is no
            JSON object with these fields (400).
        ClientGoneError: when the client goes.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"the body is {kind or 'of no known type'}; send JSON, with Content-Type: application/json")
    value = from_bytes(b"".join([chunk async for chunk in _chunks(request, limits)]))
    if not isinstance(value, dict):
        raise ApiError(400, f"the body is {_name(value)}; send a JSON object")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise ApiError(400, f"{place}: {said}" if place else said, param=place or None) from None


async def read_form(request: Request, limits: Limits) -> tuple[list[Upload], dict[str, str]]:
    """The files under "file", and the other fields, of a multipart body.

    Raises:
        ApiError: as of `read_json`; for fields that are given twice, or files under another name.
        ClientGoneError: when the client goes.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise ApiError(415, "send the file as a form, with Content-Type: multipart/form-data (curl -F file=@page.pdf)")
    try:
        parser = MultiPartParser(
            Headers({"content-type": kind}), _chunks(request, limits), max_files=_MOST_FILES,
            max_part_size=_FIELD_BYTES,
        )  # fmt: skip
        parser.spool_max_size = limits.body_bytes  # files of clients stay in memory
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise ApiError(400, f"the form cannot be read: {getattr(error, 'message', error)}; send it again") from None
    uploads, fields = list[Upload](), dict[str, str]()
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "file":
                    raise ApiError(400, f'the file stands under {name[:60]!r}; send files under "file"', param=name)
                uploads.append(Upload(value.filename or f"file {len(uploads) + 1}", await value.read()))
            elif name in fields:
                raise ApiError(400, f"{name[:60]} is given twice; leave one out", param=name)
            else:
                fields[name] = value
    finally:
        await form.close()
    if not uploads:
        raise ApiError(400, 'there is no file; send one under "file" (curl -F file=@page.pdf)', param="file")
    return uploads, fields


async def _chunks(request: Request, limits: Limits) -> AsyncGenerator[bytes]:
    """The body, piece by piece."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.body_bytes:
        await _drain(request)
        raise _too_large(limits)
    size = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.body_bytes:
                    break
                yield chunk
    except TimeoutError:
        raise ApiError(
            408, f"the body did not arrive within {limits.body_seconds:g} s; send it faster",
            headers={"Connection": "close"},
        ) from None  # fmt: skip
    except ClientDisconnect:
        raise ClientGoneError from None
    if size > limits.body_bytes:
        await _drain(request)
        raise _too_large(limits)


async def _drain(request: Request) -> None:
    """Read on for a moment, and throw away what comes."""
    size = 0
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while size < _DRAIN_BYTES:
                message = await request.receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _too_large(limits: Limits) -> ApiError:
    return ApiError(
        413, f"the body is larger than {limits.body_bytes >> 20} MiB; send smaller or fewer images", code="too_large",
        headers={"Connection": "close"},
    )  # fmt: skip


def _name(value: Any) -> str:
    kinds = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
