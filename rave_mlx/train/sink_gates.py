"""Training sink gates (LSG, arXiv 2604.03316) beside, or instead of, pair gates and low-rank updates.

The paper trains each layer's gate by itself on a frozen model (10,000 samples, 2 epochs) and stacks the best without
training them together: layers 3, 6, 7, 10 and 19 of 32, of which 10 is the best single one. Here the chosen layers
train together, on the loss of everything else.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from rave_mlx.checkpoint.adapters import with_sink_gates
from rave_mlx.config import SinkGateConfig, TextConfig
from rave_mlx.errors import UsageError
from rave_mlx.models.lmm import LMM
from rave_mlx.train.config import TrainConfig

_BEST, _OF = 11, 32
"""The layer whose keys the paper's best single gate scales, the one after layer 10, and how many layers there are."""


def use_sink_gates(lmm: LMM, config: TrainConfig) -> LMM:
    """The model with the sink gates that a run trains, fresh ones unless it has them; weights are shared.

    Raises:
        UsageError: when it reads text only, has no such layers, or other sink gates than were asked for.
    """
    if config.sink_gates is None:
        return lmm
    text, known = lmm.config.text, lmm.config.sink_gate
    if lmm.config.vision is None:
        raise UsageError("--sink-gates: this model reads text only and has no visual keys to scale")
    layers = default_layers(text) if config.sink_gates == "auto" else config.sink_gates
    if known is not None:
        wanted = replace(known, outlier=config.outlier, layers=known.layers if config.sink_gates == "auto" else layers)
        if wanted != known:
            raise UsageError(
                f"--sink-gates: the model has sink gates before layers {', '.join(map(str, known.layers))} and "
                f"--sink-norm {known.outlier:g}; they can be trained on as they are, or start from a model without"
            )
        return lmm
    outside = [i for i in layers if i not in text.attention_layers or i == 0]
    if outside or not layers:
        possible = ", ".join(str(i) for i in text.attention_layers if i)
        raise UsageError(f"--sink-gates: layer {outside[0] if outside else 0} takes none; there are {possible}")
    mx.random.seed(config.seed)
    return with_sink_gates(lmm, SinkGateConfig(layers, outlier=config.outlier), lmm.path or Path())


def default_layers(text: TextConfig) -> tuple[int, ...]:
    """The layer with attention at the depth of the paper's best one; empty where only the first has attention."""
    possible = [i for i in text.attention_layers if i]
    place = _BEST * len(text.attention_layers) // _OF
    return (max(possible[0], text.attention_layers[place]),) if possible else ()
