"""Errors as clients see them: a status, and OpenAI's object with a message for the person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rave_mlx.errors import ImageError, MemoryLimitError, ModelError, PromptError, RaveError, UsageError

TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
         405: "invalid_request_error", 408: "timeout_error", 413: "request_too_large",
         415: "invalid_request_error", 429: "rate_limit_error", 503: "overloaded_error"}  # fmt: skip


class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: for the person: what, and what to do.
        param: the field of the request that is meant.
        code: for programs.
        headers: of the response, beside the usual ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def as_json(self) -> dict[str, Any]:
        """The body of the response."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


_PARAMS = ((ImageError, "messages", "invalid_image"), (PromptError, "messages", None), (UsageError, None, None))


def from_rave(error: RaveError, param: str | None = None) -> ApiError:
    """The package's own errors: what a client asked for (400), or what this machine lacks (503).

    Args:
        error: whose message is for a person already.
        param: the field that is meant, where that is known.
    """
    message = _for_requests(str(error))
    if isinstance(error, MemoryLimitError):
        return ApiError(503, message, param=param, code="out_of_memory")
    if isinstance(error, ModelError):
        return ApiError(500, message, param=param, code="model_error")
    for kind, place, code in _PARAMS:
        if isinstance(error, kind):
            return ApiError(400, message, param=param or place, code=code)
    return ApiError(400, message, param=param)


def _for_requests(message: str) -> str:
    """A message with the names that options have in requests."""
    for option, name in (("--attention", "attention"), ("--compare", "compare"), ("--image-tokens", "image_tokens"),
                         ("--max-tokens", "max_tokens"), ("--pages", "pages"), ("--layers", "layers"),
                         ("--heads", "heads")):  # fmt: skip
        message = message.replace(option, name)
    return message
