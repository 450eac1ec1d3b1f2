"""JSON in and out: what comes in is UTF-8 and plain JSON, what goes out is too."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from starlette.responses import Response

from rave_mlx.serve.errors import ApiError


def to_bytes(content: Any) -> bytes:
    """A value as compact JSON; half characters, which a client may have sent, become question marks."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def from_bytes(body: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ApiError: for what is no JSON or no UTF-8, or is nested too deeply (400).
    """
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8 (byte {error.start}); encode it as UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ApiError(400, f"the body is not JSON: {error.msg} ({where}); send a JSON object") from None
    except RecursionError:
        raise ApiError(400, "the JSON is nested too deeply; send a flatter one") from None
    except ValueError as error:  # whole numbers of thousands of digits
        raise ApiError(400, f"the body holds a value that cannot be meant: {error}") from None


class JsonResponse(Response):
    """A response of JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Its bytes."""
        return to_bytes(content)


def error_response(error: ApiError) -> JsonResponse:
    """The response for an error."""
    return JsonResponse(error.as_json(), error.status, error.headers)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
