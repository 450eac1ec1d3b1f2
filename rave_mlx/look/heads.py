"""What the heads of every layer do while a prompt is read: visual sinks, dormant heads, and both kinds of gates.

A model may have gates of its own (Qwen3.5: the output of every head is multiplied with a sigmoid of the layer's input,
number by number) beside the pair gates of this package, which add a bias to scores. Both are learned, and both decide
how much a head says; here they stand side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx import backend
from rave_mlx.attention.gate import squash
from rave_mlx.errors import PromptError, UsageError
from rave_mlx.generation.turns import COMPUTING
from rave_mlx.models.linear_attention import LinearAttention
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.parse import steering
from rave_mlx.policies.policy import Attention
from rave_mlx.policies.runtime import attach
from rave_mlx.policies.sink_observers import (
    BlockInputs,
    FirstToken,
    LayerDormancy,
    LayerSinks,
    VisualSinks,
    dormancy,
    visual_sinks,
)

DORMANT = 0.9
"""Mean attention on the first token above which a head is called dormant; ours, the paper's was not at hand."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerHeads:
    """One layer with attention. H heads, G KV groups.

    Attributes:
        layer: its index among them.
        sinks: its visual sinks, and what heads do with them.
        first: how dormant its heads are.
        output_gate: (H,) mean of the model's own output gate; None for a model without.
        bias: (H,) mean bias of the pair gate on visual keys, NaN for heads that it leaves alone; None without one.
        scales: what a sink gate multiplies keys of the encoder's sinks and of other visual tokens with; None without
            one.
    """

    layer: int
    sinks: LayerSinks
    first: LayerDormancy
    output_gate: Floats | None
    bias: Floats | None
    scales: tuple[float, float] | None


def head_figures(
    lmm: LMM, messages: Sequence[Mapping[str, Any]], *, policy: Attention = None, image_tokens: int | None = None
) -> list[LayerHeads]:
    """Read a question about images once, and say what the heads of every layer did.

    Attention is that of text rows behind an image (sinks) or of all rows (first token); gates are means over the tokens
    behind the last image, which see all of it.

    Args:
        lmm: the model.
        messages: as in `LMM.prepare`.
        policy: attention policy, as of `Session`, under which it reads.
        image_tokens: budget of visual tokens an image; None for the default.

    Raises:
        PromptError: for a question without an image, or with nothing behind it.
        UsageError: for a policy that the model cannot take, or that changes what is read.
    """
    chosen = steering(policy)
    for each in chosen.policies:
        if each.drops or each.has("revise") or each.has("after_block"):
            raise UsageError(f"--attention {each.name} changes what is read; heads are shown of the whole page")
    prompt = lmm.prepare(messages, image_tokens)
    columns = np.flatnonzero(prompt.token_map.visual)
    if not columns.size or columns[-1] + 1 == len(prompt):
        raise PromptError("there is no image with a question behind it; give both")
    span = (int(columns[0]), int(columns[-1]) + 1)
    sinks, first, inputs = VisualSinks(), FirstToken(), BlockInputs()
    run = attach(lmm, [*chosen.policies, sinks, first, inputs])
    assert run is not None
    cache = lmm.make_cache(gate=chosen.gate, hooks=run)
    with COMPUTING, backend.row_parallel():
        run.plan([prompt], {})
        mx.eval(lmm.read(prompt, cache, len(prompt)))
        cache.evaluate()
        visual = mx.array(prompt.token_map.visual[None])
        gates = [
            _gates(lmm, layer, run.state(inputs, place)["input"], visual, span, used=cache.gated)
            for place, layer in enumerate(run.layers)
        ]
    rows = zip(visual_sinks(run, sinks), dormancy(run, first), gates, strict=True)
    return [LayerHeads(place, sink, dormant, *own) for place, (sink, dormant, own) in enumerate(rows)]


def _gates(
    lmm: LMM, index: int, x: mx.array, visual: mx.array, span: tuple[int, int], *, used: bool
) -> tuple[Floats | None, Floats | None, tuple[float, float] | None]:
    """`output_gate`, `bias` and `scales` of `LayerHeads` from a layer's input (1, L, hidden)."""
    layer = lmm.decoder.layers[index]
    attention = layer.attention
    assert not isinstance(attention, LinearAttention)
    q, k, _, *own = attention.project(layer.input_norm(x))
    heads, output, bias = q.shape[2], None, None
    if own:
        opened = mx.sigmoid(own[0].astype(mx.float32))[0, span[1] :].reshape(-1, heads, own[0].shape[-1] // heads)
        output = np.array(mx.mean(opened, axis=(0, 2)), dtype=np.float64)
    if used and "gate" in attention:
        gate = attention.gate
        u = gate.query_features(q.swapaxes(1, 2))[0, :, span[1] :]
        v = gate.key_features(k.swapaxes(1, 2), visual)[0][:, mx.array(np.flatnonzero(np.array(visual[0])))]
        terms = gate.terms(u, v, span)
        ratio = heads // k.shape[2]
        pairs = squash(u @ mx.repeat(v, ratio, axis=0).swapaxes(-1, -2), terms.squash, terms.limit)
        bias = np.full(heads, np.nan)
        bias[[g * ratio + i for g in terms.groups for i in range(ratio)]] = np.array(mx.mean(pairs, axis=(1, 2)))
    scales = None
    if used and "sink_gate" in layer:
        sink, rest = np.asarray(layer.sink_gate.shares(x[0, -1])).tolist()
        scales = sink, rest
    return output, bias, scales


def head_table(figures: Sequence[LayerHeads], *, threshold: float = DORMANT) -> str:
    """The figures as text: a line for every layer, then the gates of every head where there are any.

    Args:
        figures: as of `head_figures`.
        threshold: mean attention on the first token above which a head counts as dormant.
    """
    lines = [
        f"{'layer':>5}{'visual sinks':>14}{'their share':>13}{'image heads':>13}{'dormant':>9}{'value of first':>16}"
    ]
    for row in figures:
        image = row.sinks.image.sum()
        share = row.sinks.sink.sum() / image if image else 0.0
        centric = int((row.sinks.centric > 0.5).sum())
        dormant = int(row.first.dormant(threshold).sum())
        numbers = f"{len(row.sinks.tokens):>14}{share:>13.1%}{centric:>13}{dormant:>9}{row.first.value.mean():>16.2f}"
        lines.append(f"{row.layer:>5}{numbers}")
    lines += [
        "their share: of the attention to the image; image heads: look at the image off its sinks in most rows",
        f"dormant: more than {threshold:.0%} on the first token; value of first: norm of its value, in medians",
    ]
    named = [("output gate", "output_gate", "{:.2f}"), ("pair gate's bias", "bias", "{:+.2f}")]
    shown = [entry for entry in named if any(getattr(row, entry[1]) is not None for row in figures)]
    if shown:
        names = "".join(f"{i:>7}" for i in range(1, _heads(figures)))
        lines += ["", f"layer  {'gate':<16} head 0{names}"]
    for row in figures if shown else ():
        for name, field, form in shown:
            values = getattr(row, field)
            cells = ["-" if values is None or np.isnan(x) else form.format(x) for x in _padded(values, _heads(figures))]
            lines.append(f"{row.layer:>5}  {name:<16}" + "".join(f"{cell:>7}" for cell in cells))
    scaled = [(row.layer, row.scales) for row in figures if row.scales is not None]
    lines += [""] if scaled else []
    for layer, (sink, rest) in scaled:
        lines.append(
            f"{layer:>5}  sink gate: keys of the encoder's sinks x {sink:.3f}, of other visual tokens x {rest:.3f}"
        )
    return "\n".join(lines)


def _heads(figures: Sequence[LayerHeads]) -> int:
    return max(len(row.first.first) for row in figures)


def _padded(values: Floats | None, count: int) -> Floats:
    """(count,) values, NaN where there are none."""
    found: Floats = np.full(count, np.nan)
    if values is not None:
        found[: len(values)] = values
    return found
