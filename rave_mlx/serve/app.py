"""The web application: routes, and what stands before them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rave_mlx.errors import RaveError
from rave_mlx.serve import info
from rave_mlx.serve.answering import ClientGoneError
from rave_mlx.serve.chat import chat_completions
from rave_mlx.serve.chat_fields import ChatFields, CompletionFields
from rave_mlx.serve.completions import completions
from rave_mlx.serve.context import Context
from rave_mlx.serve.documents import draw_pages, extract, read
from rave_mlx.serve.engine import INTERNAL
from rave_mlx.serve.errors import ApiError, from_rave
from rave_mlx.serve.guard import Guard
from rave_mlx.serve.json_text import JsonResponse, error_response
from rave_mlx.serve.look import LookFields, look
from rave_mlx.serve.metrics import CountRequests, Metrics

_LOG = logging.getLogger("rave_mlx.serve")
_GONE = 499
"""The status of a request whose client went, as nginx has it; nobody receives it."""

_STREAMED = ("/v1/chat/completions", "/v1/completions")
Route = Callable[[Context, Request], Awaitable[Response]]


def make_app(context: Context) -> FastAPI:
    """The application of a server."""
    app = FastAPI(title="rave-mlx", version=metadata.version("rave-mlx"), docs_url=None, redoc_url=None,
                  openapi_url="/openapi.json")  # fmt: skip
    metrics = Metrics(context.engine)
    _add_posts(app, context)
    _add_gets(app, context, metrics)
    _add_errors(app)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    app.add_middleware(CountRequests, metrics=metrics, paths=paths)
    app.add_middleware(Guard, settings=context.settings)
    return app


def _add_posts(app: FastAPI, context: Context) -> None:
    """What is asked."""
    _post(app, context, "/v1/chat/completions", chat_completions, _json_body(ChatFields))
    _post(app, context, "/v1/completions", completions, _json_body(CompletionFields))
    _post(app, context, "/v1/look", look, _json_body(LookFields))
    _post(app, context, "/v1/read", read, _form_body("format", "pages", "bbox", "image_tokens", "max_tokens", "model"))
    _post(
        app, context, "/v1/extract", extract,
        _form_body("schema", "fields", "pages", "boxes", "attention", "image_tokens", "max_tokens", "model"),
    )  # fmt: skip
    _post(app, context, "/v1/pages", draw_pages, _form_body("pages"))


def _post(app: FastAPI, context: Context, path: str, route: Route, body: dict[str, Any]) -> None:
    async def endpoint(request: Request) -> Response:
        return await route(context, request)

    summary = (route.__doc__ or "").partition("\n")[0]
    responses: dict[int | str, Any] = dict.fromkeys((400, 401, 403, 404, 408, 413, 415, 429, 500, 503), _ERROR)
    responses[200] = _object("What was asked for.", streamed=path in _STREAMED)
    app.add_api_route(
        path, endpoint, methods=["POST"], summary=summary, openapi_extra={"requestBody": body}, responses=responses,
        response_class=JsonResponse, operation_id=getattr(route, "__name__", path),
    )  # fmt: skip


def _add_gets(app: FastAPI, context: Context, metrics: Metrics) -> None:
    """What the server says about itself, and the page."""

    async def list_models() -> Response:
        return JsonResponse(info.models(context))

    async def one_model(name: str) -> Response:
        return JsonResponse(info.model(context, name))

    async def settings() -> Response:
        return JsonResponse(info.settings(context))

    async def health() -> Response:
        return JsonResponse({"status": "ok"})

    async def figures() -> Response:
        return metrics.page()

    async def page() -> Response:
        return info.page_file("index.html")

    async def page_file(name: str) -> Response:
        return info.page_file(name)

    for path, endpoint, summary in (
        ("/v1/models", list_models, "The models."),
        ("/v1/models/{name:path}", one_model, "One model."),
        ("/v1/settings", settings, "What the page needs to draw itself."),
        ("/health", health, "Whether the server runs."),
        ("/metrics", figures, "Figures for Prometheus."),
    ):
        known: dict[int | str, Any] = {401: _ERROR, 403: _ERROR, 404: _ERROR}
        kind: type[Response] = PlainTextResponse if path == "/metrics" else JsonResponse
        if kind is JsonResponse:
            known[200] = _object("What it says.")
        app.add_api_route(path, endpoint, methods=["GET"], summary=summary, response_class=kind, responses=known)
    for path, endpoint in (("/", page), ("/page/{name}", page_file)):
        app.add_api_route(path, endpoint, methods=["GET"], include_in_schema=False)


def _add_errors(app: FastAPI) -> None:
    """Every error is a message for a person."""

    async def api_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error_response(error)

    async def rave_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, RaveError)
        return error_response(from_rave(error))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        reasons = {404: f"there is nothing at {request.url.path[:100]}", 405: f"{request.method} is not known here"}
        reason = reasons.get(error.status_code, str(error.detail))
        return error_response(ApiError(error.status_code, reason, headers=error.headers))

    async def gone(_: Request, error: Exception) -> Response:
        return Response(status_code=_GONE)

    async def internal(_: Request, error: Exception) -> Response:
        return error_response(ApiError(500, INTERNAL))

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RaveError, rave_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientGoneError, gone)
    app.add_exception_handler(Exception, internal)


def _json_body(model: type[BaseModel]) -> dict[str, Any]:
    """A JSON body in the words of OpenAPI."""
    return {"required": True, "content": {"application/json": {"schema": _inlined(model.model_json_schema())}}}


def _form_body(*names: str) -> dict[str, Any]:
    """A form with files and fields in the words of OpenAPI."""
    file = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    schema = {
        "type": "object",
        "required": ["file"],
        "properties": {"file": file, **{name: {"type": "string"} for name in names}},
        "additionalProperties": False,
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _object(description: str, *, streamed: bool = False) -> dict[str, Any]:
    """A response that is a JSON object, or a stream of them, in the words of OpenAPI."""
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if streamed:
        content["text/event-stream"] = {}
    return {"description": description, "content": content}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON Schema with its definitions where they are used; none of them is recursive."""
    definitions = schema.pop("$defs", {})

    def put_in(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return put_in(definitions[value["$ref"].rpartition("/")[2]])
            return {key: put_in(item) for key, item in value.items()}
        return [put_in(item) for item in value] if isinstance(value, list) else value

    found: dict[str, Any] = put_in(schema)
    return found


_ERROR: dict[str, Any] = {
    "description": "What is wrong, and what to do.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["message", "type"],
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": ["string", "null"]},
                        },
                    }
                },
            }
        }
    },
}
