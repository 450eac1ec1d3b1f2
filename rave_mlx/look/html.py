"""One HTML file in which attention can be explored: everything is in it, and it asks for nothing.

Hover or focus a token of the answer to see where it looked; choose layer, head, run, or the difference of two runs.
Maps are kept as 8 bits of their root, scaled by each row's peak: exact to half a percent of the peak near it. Single
heads are kept as long as there is room; beyond that, the most image-centric of each layer.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rave_mlx.inputs.images.token_boxes import TokenBoxes
from rave_mlx.look.colors import attention_scale, difference_scale
from rave_mlx.look.comparison import check_together
from rave_mlx.look.maps import KINDS, AttentionMap, default_layers, name_numbers

MOST_BYTES = 24 << 20
"""Bytes of maps in a page, before base64."""
_LONGEST_SIDE = 1600
"""Pixels of an image in a page; larger ones are scaled down."""


@dataclass(frozen=True)
class _Heads:
    """Heads kept of each layer, in the order of their channels; `everywhere`: those kept of all layers."""

    kept: list[list[int]]
    everywhere: list[int]


def write_page(runs: AttentionMap | Sequence[AttentionMap], path: Path, *, layers: Sequence[int] | None = None) -> None:
    """Write the page, beside its place first and then renamed into it.

    Args:
        runs: one or several runs of the same question about the same images.
        path: of the file.
        layers: those whose mean is shown first; None for `maps.default_layers`.

    Raises:
        UsageError: for runs that do not belong together.
    """
    part = path.with_name(f".{path.name}.part")
    part.write_text(page([runs] if isinstance(runs, AttentionMap) else runs, layers=layers), encoding="utf-8")
    part.replace(path)


def page(runs: Sequence[AttentionMap], *, layers: Sequence[int] | None = None) -> str:
    """The page as text; see `write_page`."""
    check_together(runs)
    folder = files("rave_mlx.look")
    texts = {name: (folder / f"page.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    # "<" escaped, so that no text in the data can end the script element.
    data = json.dumps(_data(runs, layers), ensure_ascii=False).replace("<", "\\u003c")
    filled = {
        "title": html.escape(runs[0].question.strip() or "Attention"),
        "style": texts["css"].strip(),
        "script": texts["js"].strip(),
        "data": data,
    }
    # One pass over the template: what is filled in is never looked at again.
    return re.sub("@(title|style|data|script)@", lambda match: filled[match[1]], texts["html"])


def _data(runs: Sequence[AttentionMap], layers: Sequence[int] | None) -> dict[str, Any]:
    """What `page.js` reads; arrays as base64 of little-endian numbers."""
    first = runs[0]
    chosen = list(default_layers(first.num_layers) if layers is None else layers)
    rows = sum(run.weights.shape[0] for run in runs) * first.num_layers * first.weights.shape[3]
    room = min(first.num_heads, max(0, MOST_BYTES // max(rows, 1) - 1))
    return {
        "question": first.question.strip(),
        "images": [_image(run_image.picture, run_image.places) for run_image in first.images],
        "layers": {"count": first.num_layers, "chosen": chosen, "name": name_numbers(chosen)},
        "runs": [_run(run, room) for run in runs],
        "first": next((i for i, run in enumerate(runs) if run.attention == "rave"), 0),
        "scale": _text(attention_scale()),
        "difference": _text(difference_scale()),
    }


def _image(picture: Image.Image, places: TokenBoxes) -> dict[str, Any]:
    """A picture as a data URL (as JPEG where PNG would take more than 1 MB), and where its visual tokens lie."""
    scaled = picture.copy()
    scaled.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    packed, kind = io.BytesIO(), "png"
    scaled.save(packed, "png", optimize=True)
    if packed.tell() > 1 << 20:
        packed, kind = io.BytesIO(), "jpeg"
        scaled.save(packed, "jpeg", quality=88)
    return {
        "source": f"data:image/{kind};base64,{base64.b64encode(packed.getvalue()).decode()}",
        "width": picture.width,
        "height": picture.height,
        "boxes": _text(places.boxes.astype("<f4")),
        "cell": places.cell,
    }


def _run(run: AttentionMap, room: int) -> dict[str, Any]:
    """One run, with the maps of `room` heads a layer."""
    heads = _kept(run, room)
    codes, peaks = pack(run, heads.kept)
    return {
        "name": run.attention,
        "answer": run.answer,
        "tokens": [{"id": t.id, "text": t.text, "stop": t.stop} for t in run.tokens],
        "heads": {"count": run.num_heads, "kept": heads.kept, "everywhere": heads.everywhere},
        "weights": _text(codes),
        "peaks": _text(peaks.astype("<f4")),
        "mass": _text(run.mass.astype("<f4")),
    }


def _kept(run: AttentionMap, room: int) -> _Heads:
    """The `room` most image-centric heads of each layer."""
    image = run.mass[run.text_tokens, :, :, KINDS.index("image")].mean(axis=0)
    kept = [sorted(np.argsort(-row, kind="stable")[:room].tolist()) for row in image]
    return _Heads(kept, sorted(set(kept[0]).intersection(*kept)) if room else [])


def pack(run: AttentionMap, kept: Sequence[Sequence[int]]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes (T, N, 1 + kept heads, V) and peaks (T, N, 1 + kept heads): attention is peak * (code / 255)^2.

    The first channel is the mean over all heads, the others are the kept heads of each layer.
    """
    shape = (run.weights.shape[0], run.num_layers, 1 + len(kept[0]))
    codes, peaks = np.empty((*shape, run.weights.shape[3]), np.uint8), np.empty(shape, np.float32)
    for layer, heads in enumerate(kept):
        rows = run.weights[:, layer].astype(np.float32)
        rows = np.concatenate([rows.mean(axis=1, keepdims=True), rows[:, list(heads)]], axis=1)
        top = rows.max(axis=-1)
        peaks[:, layer] = top
        codes[:, layer] = np.rint(255 * np.sqrt(rows / np.maximum(top, 1e-12)[..., None]))
    return codes, peaks


def _text(array: NDArray[Any]) -> str:
    """The bytes of an array in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
