"""What `rave-mlx look` writes and prints."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rave_mlx.checkpoint.directory import new_directory
from rave_mlx.look.html import write_page
from rave_mlx.look.maps import KINDS, AttentionMap, Floats
from rave_mlx.look.masses import image_heads, layer_masses, mass_table
from rave_mlx.look.picture import draw, draw_comparison

PAGE, TABLE, SIDE_BY_SIDE = "look.html", "table.txt", "compare.png"


def write_folder(
    runs: Sequence[AttentionMap],
    out: Path,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> list[Path]:
    """Write pictures, page and table into a new folder, which is there complete or not at all.

    Args:
        runs: of one question.
        out: the folder.
        layers: layers to take the mean of; None for `maps.default_layers`.
        heads: heads to take the mean of in pictures; None for all.

    Returns:
        The files.

    Raises:
        ModelError: when `out` exists or cannot be written.
        UsageError: for layers or heads that the model does not have.
    """
    names: list[str] = []
    with new_directory(out) as part:
        for run in runs:
            names.append(f"{file_name(run.attention)}.png")
            draw(run, layers=layers, heads=heads).save(part / names[-1])
        if len(runs) > 1:
            draw_comparison(runs, layers=layers, heads=heads).save(part / SIDE_BY_SIDE)
            names.append(SIDE_BY_SIDE)
        write_page(runs, part / PAGE, layers=layers)
        (part / TABLE).write_text("\n\n".join(map(mass_table, runs)) + "\n", encoding="utf-8")
    return [out / name for name in (PAGE, *names, TABLE)]


def file_name(attention: str) -> str:
    """A policy's name as a file's."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", attention).strip("-.") or "attention"


def as_json(
    runs: Sequence[AttentionMap],
    files: Sequence[Path],
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> str:
    """The runs as one JSON object: answers, tokens with masses and peaks, layers, heads; maps are in the Python API.

    Args:
        runs: of one question.
        files: that were written, to be named in it.
        layers: layers that peaks are taken of; None for `maps.default_layers`.
        heads: heads that peaks are taken of; None for all.

    Raises:
        UsageError: for layers or heads that the model does not have.
    """
    content = {
        "question": runs[0].question,
        "images": [list(image.picture.size) for image in runs[0].images],
        "runs": [_run(run, layers, heads) for run in runs],
        "files": [str(file) for file in files],
    }
    return json.dumps(_plain(content), ensure_ascii=False)


def _run(run: AttentionMap, layers: Sequence[int] | None, heads: Sequence[int] | None) -> dict[str, Any]:
    """One run as JSON values: means over the chosen layers and heads, masses over all of them."""
    masses = run.mass.mean(axis=(1, 2), dtype=np.float64)
    tokens = [
        {
            "id": token.id,
            "text": token.text,
            "stop": token.stop,
            "mass": dict(zip(KINDS, masses[i].tolist(), strict=True)),
            "peak": _peak(run, run.over(i, layers=layers, heads=heads)),
        }
        for i, token in enumerate(run.tokens)
    ]
    return {
        "attention": run.attention,
        "answer": run.answer,
        "peak": _peak(run, run.over(layers=layers, heads=heads)),
        "tokens": tokens,
        "layers": [asdict(row) for row in layer_masses(run)],
        "image_heads": [asdict(head) for head in image_heads(run)],
        **({"decoder_layers": list(run.decoder_layers)} if run.decoder_layers else {}),
    }


def _peak(run: AttentionMap, values: Floats) -> dict[str, Any]:
    """The visual token with the densest attention: image, box in pixels, share of attention."""
    best = run.peak_token(values)
    box = np.concatenate([image.places.boxes for image in run.images])[best]
    return {"image": int(run.image[best]), "box": box.round(2).tolist(), "attention": float(values[best])}


def _plain(value: Any) -> Any:
    """NaN, which JSON does not have, as null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
