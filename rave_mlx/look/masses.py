"""How a row's attention is divided among image, text and sinks, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rave_mlx.look.maps import KINDS, AttentionMap

_HEADS = 8


@dataclass(frozen=True)
class LayerMass:
    """One layer, mean over the answer's tokens and the heads.

    Attributes:
        layer: its index.
        image, text, sinks: shares of attention; they sum to 1.
        sink_keys: keys that counted as sinks when the answer began.
        shift: what the pair gate did to the odds of image against text, natural logarithm; NaN without a gate.
        moved: share of the image's attention that it moved to other visual tokens; NaN without a gate.
    """

    layer: int
    image: float
    text: float
    sinks: float
    sink_keys: int
    shift: float
    moved: float


@dataclass(frozen=True)
class HeadMass:
    """A head and the share of its attention that lies on the image."""

    layer: int
    head: int
    image: float


def layer_masses(seen: AttentionMap) -> list[LayerMass]:
    """Shares of image, text and sinks in every layer."""
    rows = seen.text_tokens
    mass = seen.mass[rows].mean(axis=(0, 2), dtype=np.float64)
    shift, moved = (values[rows].mean(axis=(0, 2), dtype=np.float64) for values in (seen.shift, seen.moved))
    return [
        LayerMass(i, float(m[0]), float(m[1]), float(m[2]), int(seen.sinks[i]), float(shift[i]), float(moved[i]))
        for i, m in enumerate(mass)
    ]


def image_heads(seen: AttentionMap, count: int = _HEADS) -> list[HeadMass]:
    """The most image-centric heads, first the most."""
    image = seen.mass[seen.text_tokens, :, :, KINDS.index("image")].mean(axis=0, dtype=np.float64)
    order = np.argsort(-image, axis=None, kind="stable")[:count]
    places = (np.unravel_index(i, image.shape) for i in order)
    return [HeadMass(int(layer), int(head), float(image[layer, head])) for layer, head in places]


def mass_table(seen: AttentionMap) -> str:
    """Both as text; the gate's columns only where there is a gate."""
    layers = layer_masses(seen)
    gated = any(np.isfinite(row.shift) for row in layers)
    sinks = f"{'sinks':>8}{'sink keys':>11}"
    head = f"{'layer':>5}{'image':>8}{'text':>8}{sinks}" + (f"{'odds x':>9}{'moved':>8}" if gated else "")
    lines = [f"attention {seen.attention}: {seen.question.strip()} -> {seen.answer}", head]
    if seen.layer_note:
        lines.insert(1, f"of the decoder's {seen.layer_note}, counted from 0")
    for row in layers:
        line = f"{row.layer:>5}{row.image:>8.1%}{row.text:>8.1%}{row.sinks:>8.1%}{row.sink_keys:>11}"
        if gated:
            known = np.isfinite(row.shift)
            line += f"{np.exp(row.shift):>9.3g}{row.moved:>8.1%}" if known else f"{'-':>9}{'-':>8}"
        lines.append(line)
    named = ", ".join(f"{h.layer}.{h.head} {h.image:.0%}" for h in image_heads(seen))
    lines.append(f"most image-centric heads (layer.head): {named}")
    if gated:
        lines.append(
            "odds x: factor by which the gate changed image against text (geometric mean); "
            "moved: share of the image's attention that it moved within the image"
        )
    return "\n".join(lines)
