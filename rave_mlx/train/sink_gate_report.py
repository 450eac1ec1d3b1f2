"""What the sink gates have learned: by layer, how much the keys of both groups of visual tokens count."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from rave_mlx import backend
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.lmm import LMM
from rave_mlx.models.sink_gate import prompt_groups
from rave_mlx.policies.runtime import attach
from rave_mlx.policies.sink_observers import BlockInputs

FILE = "sink_gates.json"


@dataclass(frozen=True)
class SinkGateFigures:
    """One layer, over prompts with an image.

    Attributes:
        layer: its index.
        sink, rest: mean factor of keys of visual sinks, and of all other visual tokens; they sum to 1.
        spread: standard deviation of `sink` over the prompts.
        sinks: share of the visual tokens that are sinks.
    """

    layer: int
    sink: float
    rest: float
    spread: float
    sinks: float


def sink_gate_report(lmm: LMM, prompts: Sequence[Prompt]) -> list[SinkGateFigures]:
    """Figures of every layer with a sink gate; empty without gates or prompts with images."""
    config, seen = lmm.config.sink_gate, [p for p in prompts if p.images]
    if config is None or not seen:
        return []
    places = lmm.config.text.attention_layers
    shares: dict[int, list[float]] = {layer: [] for layer in config.layers}
    marks = []
    for prompt in seen:
        inputs = BlockInputs()
        run = attach(lmm, [inputs])
        assert run is not None
        with backend.row_parallel():
            mx.eval(lmm.read(prompt, lmm.make_cache(gate=True, hooks=run), len(prompt)))
        groups = prompt_groups(config, lmm.embed(prompt, 0, len(prompt))[0], [prompt.token_map], 0, len(prompt))
        assert groups is not None
        marks.append(float(np.asarray(mx.sum(groups.sink))) / prompt.visual_tokens)
        for layer, gate in lmm.decoder.sink_gates.items():
            last = run.state(inputs, places.index(layer))["input"][0, -1]
            shares[layer].append(float(np.asarray(gate.shares(last)[0])))
    return [
        SinkGateFigures(layer, float(np.mean(x)), 1 - float(np.mean(x)), float(np.std(x)), float(np.mean(marks)))
        for layer, x in shares.items()
    ]


def write_sink_report(figures: Sequence[SinkGateFigures], out: Path) -> None:
    """Write the figures into a run's directory."""
    part = out / f".{FILE}.part"
    part.write_text(json.dumps([asdict(each) for each in figures], indent=2) + "\n", encoding="utf-8")
    part.replace(out / FILE)
