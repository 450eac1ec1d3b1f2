"""What the pair gates have learned: by layer, the mean bias on visual keys and how much attention it moves.

Looked at are the gated heads and the tokens behind the last image, question and answer: they see every visual key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from rave_mlx import backend
from rave_mlx.attention import GateTerms, Mask, attend_with_mass, decoder_mask
from rave_mlx.attention.gate import squash
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.lmm import LMM
from rave_mlx.models.rope import RotaryTable, sliding_table, text_table
from rave_mlx.models.self_attention import Attention
from rave_mlx.models.sink_gate import prompt_groups
from rave_mlx.models.step import Step

FILE = "gates.json"
_ROWS = 256
"""Queries whose biases exist at once."""


@dataclass(frozen=True)
class GateFigures:
    """One layer.

    Attributes:
        layer: its index.
        bias: mean of what the gate adds to the scores of visual keys.
        visual, visual_without: share of attention that visual keys get with the gate and without it.
        moved: mean change of that share, up or down, over heads and tokens.
    """

    layer: int
    bias: float
    visual: float
    visual_without: float
    moved: float


def gate_report(lmm: LMM, prompts: Sequence[Prompt]) -> list[GateFigures]:
    """Figures of every gated layer, averaged over those prompts that have an image and tokens behind it."""
    found = [figures for figures in (_of_prompt(lmm, p) for p in prompts) if figures]
    return [_mean(same) for same in zip(*found, strict=True)]


def write_report(figures: Sequence[GateFigures], out: Path) -> None:
    """Write the figures into a run's directory."""
    part = out / f".{FILE}.part"
    # JSON has no NaN: a figure that is none is null.
    rows = [{n: x if math.isfinite(x) else None for n, x in asdict(f).items()} for f in figures]
    part.write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(out / FILE)


def _of_prompt(lmm: LMM, prompt: Prompt) -> list[GateFigures]:
    tokens, text = prompt.token_map, lmm.config.text
    columns = np.flatnonzero(tokens.visual)
    if not columns.size or columns[-1] + 1 == len(prompt) or not lmm.decoder.gates:
        return []
    span = (int(columns[0]), int(columns[-1]) + 1)
    x, deepstack = lmm.embed(prompt, 0, len(prompt))
    lookahead = None if tokens.lookahead is None else mx.array(tokens.lookahead[None])
    everywhere = None if lmm.config.mask == "windows" else lookahead
    masks = [
        decoder_mask(len(prompt), len(prompt), lookahead=ahead, window=window, beyond_window=lmm.config.mask == "whole")
        for ahead, window in ((everywhere, None), (lookahead, text.sliding_window))
    ]
    positions = mx.array(tokens.positions[None])
    table = text_table(text.rope, text.head_dim, positions, tokens.next_position)
    own = sliding_table(text, positions, tokens.next_position)
    visual = mx.array(tokens.visual[None])
    given = None
    if text.layer_inputs is not None:
        given = lmm.decoder.layer_inputs(mx.array(prompt.ids), x, visual)
    step = Step(table, masks[0], masks[1], visual, span, sliding_rotation=own, layer_inputs=given)
    groups = prompt_groups(lmm.config.sink_gate, x, [tokens], 0, len(prompt))
    figures = []
    for index, layer in enumerate(lmm.decoder.layers):
        scaled = layer.sink_gate(x, groups) if groups is not None and "sink_gate" in layer else None
        step = replace(step, key_scale=scaled)
        if isinstance(layer.attention, Attention) and "gate" in layer.attention:
            mask = masks[1] if text.slides(index) else masks[0]
            turned = own if own is not None and text.slides(index) else table
            figures.append(_of_layer(index, layer.attention, layer.input_norm(x), visual, span, turned, mask, scaled))
        with backend.row_parallel():
            x = layer(x, step, None)
            if deepstack is not None and index < deepstack.shape[0]:
                x = x + deepstack[index]
            mx.eval(x)
    return figures


def _of_layer(
    index: int,
    attention: Attention,
    x: mx.array,
    visual: mx.array,
    span: tuple[int, int],
    table: RotaryTable,
    mask: Mask,
    scaled: mx.array | None,
) -> GateFigures:
    first = span[1]
    q, k, v = (y.swapaxes(1, 2) for y in attention.project(x)[:3])
    gate = attention.gate
    terms: GateTerms = gate.terms(gate.query_features(q)[:, :, first:], gate.key_features(k, visual), span)
    scale, kinds = attention.score_scale, visual.astype(mx.uint8)
    turned, keys = attention.rotate(table, q, k)
    keys = keys if scaled is None else keys * scaled[:, None, :, None]
    rotated = turned[:, :, first:], keys, v
    rows = mask if mask is None or isinstance(mask, str) else mask[..., first:, :]
    heads = _gated_heads(terms, q.shape[1] // k.shape[1])
    shares = [
        attend_with_mass(*rotated, kinds=kinds, num_kinds=2, scale=scale, mask=rows, gate=g)[1][:, heads, :, 1]
        for g in (terms, None)
    ]
    with_gate, without, moved = (_number(x.mean()) for x in (*shares, mx.abs(shares[0] - shares[1])))
    return GateFigures(index, _mean_bias(terms, visual), with_gate, without, moved)


def _mean_bias(terms: GateTerms, visual: mx.array) -> float:
    """Mean bias of all queries of `terms` on all visual keys."""
    low, high = terms.span
    ratio = terms.u.shape[1] // terms.v.shape[1]
    keys = mx.repeat(terms.v[:, :, low:high], ratio, axis=1).swapaxes(-1, -2)
    marks = visual[:, None, None, low:high]
    total = mx.array(0.0)
    for start in range(0, terms.u.shape[2], _ROWS):
        bias = squash(terms.u[:, :, start : start + _ROWS] @ keys, terms.squash, terms.limit)
        total = total + mx.sum(mx.where(marks, bias, 0.0))
        mx.eval(total)
    return _number(total) / (terms.u.shape[1] * terms.u.shape[2] * max(1.0, _number(visual.sum())))


def _number(x: mx.array) -> float:
    return float(np.asarray(x))


def _gated_heads(terms: GateTerms, ratio: int) -> mx.array:
    return mx.array([g * ratio + i for g in terms.groups for i in range(ratio)])


def _mean(same: Sequence[GateFigures]) -> GateFigures:
    """One layer over several prompts."""
    means = {n: sum(getattr(f, n) for f in same) / len(same) for n in ("bias", "visual", "visual_without", "moved")}
    return GateFigures(same[0].layer, **means)
