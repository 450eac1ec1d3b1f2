"""What a server says about itself: models, settings, health; and the page's files."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from starlette.responses import Response

from rave_mlx.config import ImageConfig
from rave_mlx.inputs.images.preprocess import default_area
from rave_mlx.inputs.images.tiling import TILED_IMAGE_TOKENS
from rave_mlx.models.lmm import LMM
from rave_mlx.serve.context import Context
from rave_mlx.serve.errors import ApiError

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICIES = (
    ("none", "without the pair gates, no steering"),
    ("rave", "the model's pair gates: a learned bias towards the right part of the page"),
    (
        "rave+views+words",
        "gates, and the page is read line by line and the answer found among its words (built-in model)",
    ),
    ("rave+panes+views", "gates, and the page is read again in parts and in other sizes"),
    ("rave+panes", "gates, and the page is read again in parts"),
    ("rave+carve", "gates, and what the question looks at is cut out and shown again"),
    ("var:paper", "attention that lies on sinks is moved to the image (VAR)"),
    ("rave+var:cosine", "gates, and attention on sinks is moved to the image"),
)
"""Policies that the page offers; requests may name any of `rave-mlx chat --attention`."""


def models(context: Context) -> dict[str, Any]:
    """The models as OpenAI lists them."""
    return {"object": "list", "data": [_model(context, name) for name in context.shelf.names]}


def model(context: Context, name: str) -> dict[str, Any]:
    """One model.

    Raises:
        ApiError: where there is none of this name.
    """
    return _model(context, context.shelf.check(name))


def settings(context: Context) -> dict[str, Any]:
    """What the page needs to draw itself."""
    limits, lmm = context.settings.limits, context.shelf.base.lmm
    gated = lmm.make_cache().gated
    policies = [
        {"name": name, "summary": summary} for name, summary in _POLICIES if gated or not name.startswith("rave")
    ]
    budget = {"default": _default_tokens(lmm), "most": min(limits.image_tokens, lmm.config.text.max_positions - 1)}
    return {
        "models": [
            {
                "id": name,
                "gated": gated,
                "reads_images": lmm.config.image is not None,
                "attention": lmm.config.attention or ("rave" if gated else "none"),
                "policies": policies,
                "image_tokens": budget,
            }
            for name in context.shelf.names
        ],
        "limits": {
            "body_bytes": limits.body_bytes,
            "images": limits.images,
            "pixels": limits.pixels,
            "max_tokens": limits.max_tokens,
            "pages": limits.pages,
        },
        "api_key": context.settings.api_key is not None,
    }


def page_file(name: str) -> Response:
    """A file of the page.

    Raises:
        ApiError: where there is none of this name.
    """
    kind = next((kind for ending, kind in _TYPES.items() if name.endswith(ending)), None)
    # Names come from clients: only those that are in the folder itself.
    there = {entry.name: entry for entry in files("rave_mlx.serve").joinpath("page").iterdir() if entry.is_file()}
    if kind is None or name not in there:
        raise ApiError(404, f"there is no file {name[:100]!r} here", code="not_found")
    headers = {"Cache-Control": "no-cache"}
    return Response(there[name].read_bytes(), media_type=kind, headers=headers)


def _model(context: Context, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": context.shelf.created, "owned_by": "rave-mlx"}


def _default_tokens(lmm: LMM) -> int:
    """Visual tokens that an image may take where a request says nothing."""
    image = lmm.config.image
    if isinstance(image, ImageConfig):
        return max(1, default_area(image) // image.cell**2)
    return TILED_IMAGE_TOKENS
