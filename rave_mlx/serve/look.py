"""`POST /v1/look`: an answer, and for each of its tokens a map of where the model looked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from rave_mlx.errors import UsageError
from rave_mlx.look.answer_maps import MAX_TOKENS, collect
from rave_mlx.look.maps import KINDS, AttentionMap, parse_numbers
from rave_mlx.look.masses import image_heads, layer_masses
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.policy import Steering
from rave_mlx.serve.answering import while_connected
from rave_mlx.serve.body import read_json
from rave_mlx.serve.chat_fields import check_extra
from rave_mlx.serve.chat_jobs import policy_of
from rave_mlx.serve.client_messages import read_client_messages
from rave_mlx.serve.context import Context
from rave_mlx.serve.errors import ApiError
from rave_mlx.serve.json_text import JsonResponse
from rave_mlx.serve.pictures import data_url, map_url

_MOST_RUNS = 4
_MOST_TOKENS = 512
_LONGEST_MAP = 256
"""Pixels of a map's longer side: finer than any grid of visual tokens on a page."""


class LookFields(BaseModel):
    """The body of /v1/look."""

    model_config = ConfigDict(strict=True, extra="allow")
    model: str | None = None
    messages: list[dict[str, Any]] = Field(min_length=1)
    compare: list[str] | None = Field(
        None, min_length=1, max_length=_MOST_RUNS, description="Attention policies; without it none and rave."
    )
    layers: str | None = Field(None, max_length=200, description='As "8-15"; without it all but the first third.')
    heads: str | None = Field(None, max_length=200)
    max_tokens: int | None = Field(None, ge=1, le=_MOST_TOKENS)
    image_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_extra(self)
        if self.compare is not None and len(set(self.compare)) < len(self.compare):
            raise ValueError("compare names a policy twice; once is enough")
        return self


async def look(context: Context, request: Request) -> Response:
    """Answer a question under one or several attention policies, with a map for every token.

    Raises:
        ApiError: for what cannot be looked at.
        ClientGoneError: when the client goes.
    """
    limits = context.settings.limits
    fields = await read_json(request, LookFields, limits)
    model = context.shelf.check(fields.model)
    if fields.image_tokens is not None and fields.image_tokens > limits.image_tokens:
        raise ApiError(400, f"image_tokens is more than {limits.image_tokens}", param="image_tokens")
    messages = await while_connected(
        request, read_client_messages(fields.messages, limits, remote_images=context.settings.remote_images)
    )  # fmt: skip

    def work(check: Callable[[], None]) -> dict[str, Any]:
        served = context.shelf.open(model)
        try:
            return {"model": model, "runs": _runs(served.lmm, messages, fields, check)}
        finally:
            context.shelf.give_back(served)

    found = await context.looking.do(
        request, context.client(request), work, seconds=limits.seconds, retry_after=context.retry_after()
    )  # fmt: skip
    return JsonResponse(found)


def _runs(
    lmm: LMM, messages: Sequence[Mapping[str, Any]], fields: LookFields, check: Callable[[], None]
) -> list[dict[str, Any]]:
    """A run for each policy; policies that look the same are run once."""
    names = fields.compare or (["none", "rave"] if lmm.make_cache().gated else ["none"])
    chosen = {name: _shown(name, lmm) for name in names}
    layers = None if fields.layers is None else parse_numbers(fields.layers, "layers")
    heads = None if fields.heads is None else parse_numbers(fields.heads, "heads")
    known: dict[Steering, dict[str, Any]] = {}
    for steer in chosen.values():
        check()
        if steer not in known:
            most = fields.max_tokens or MAX_TOKENS
            seen = collect(lmm, messages, policy=steer, max_tokens=most, image_tokens=fields.image_tokens)
            known[steer] = _run(seen, layers, heads)
    return [{"attention": name, **known[steer]} for name, steer in chosen.items()]


def _shown(name: str, lmm: LMM) -> Steering:
    """What can be shown of a policy: the reading of the whole page, without the parts that act on the answer's logits.

    Raises:
        UsageError: for a policy that there is not, or for gates that the model does not have.
    """
    steer = policy_of(name)
    assert steer is not None
    if steer.gate and not (lmm.decoder.gates or lmm.decoder.sink_gates):
        raise UsageError("compare: rave: this model has no gates; leave rave out or name an adapter that has")
    kept = tuple(each for each in steer.policies if not each.has("logits_processor"))
    return replace(steer, policies=kept)


def _run(seen: AttentionMap, layers: Sequence[int] | None, heads: Sequence[int] | None) -> dict[str, Any]:
    """One run as JSON values."""
    masses = seen.mass.mean(axis=(1, 2), dtype=np.float64)
    tokens = []
    for index, token in enumerate(seen.tokens):
        if token.stop:
            continue
        values = seen.over(index, layers=layers, heads=heads)
        maps = [seen.heat(values, image, _map_size(seen, image)) for image in range(len(seen.images))]
        peak = max(float(each.max()) for each in maps)
        tokens.append(
            {
                "id": token.id,
                "text": token.text,
                "probability": _number(token.probability),
                "maps": [{"image": image, "png": map_url(each, peak)} for image, each in enumerate(maps)],
                "peak": _peak(seen, seen.peak_token(values)),
                "mass": dict(zip(KINDS, (round(x, 5) for x in masses[index].tolist()), strict=True)),
            }
        )
    chances = [token.probability for token in seen.tokens]
    return {
        "answer": seen.answer,
        "certainty": _number(min(chances, default=0.0)),
        "tokens": tokens,
        "images": [
            {"width": each.picture.width, "height": each.picture.height, "png": data_url(each.picture)}
            for each in seen.images
        ],
        "masses": {
            "layers": [_plain(asdict(row)) for row in layer_masses(seen)],
            "image_heads": [_plain(asdict(head)) for head in image_heads(seen)],
            **({"decoder_layers": list(seen.decoder_layers)} if seen.decoder_layers else {}),
        },
    }  # fmt: skip


def _map_size(seen: AttentionMap, image: int) -> tuple[int, int]:
    """Width and height of a map: about two pixels a visual token."""
    shown = seen.images[image]
    width, height = shown.picture.size
    columns, rows = (2 * side / cell for side, cell in zip((width, height), shown.places.cell, strict=True))
    scale = min(1.0, _LONGEST_MAP / max(columns, rows))
    return max(1, round(columns * scale)), max(1, round(rows * scale))


def _peak(seen: AttentionMap, best: int) -> dict[str, Any]:
    """Where a visual token lies, in fractions of its image's sides."""
    image = int(seen.image[best])
    width, height = seen.images[image].picture.size
    left, top, right, bottom = np.concatenate([each.places.boxes for each in seen.images])[best].tolist()
    box = [left / width, top / height, right / width, bottom / height]
    return {"image": image, "box": [round(min(1.0, max(0.0, side)), 5) for side in box]}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers to five places; NaN, which JSON does not have, as null."""
    return {
        key: (None if math.isnan(value) else round(value, 5)) if isinstance(value, float) else value
        for key, value in row.items()
    }
