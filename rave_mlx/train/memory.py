"""How much memory a run will take, before it starts, and what would make it fit.

Weights, gradients and optimizer state are counted; activations are estimated for the largest micro-batch that the
data can make. The estimate leans to the safe side: where activations dominate it was 0.9 to 2.0 times the measured
peak (built-in model on a CPU, rows of 700 to 1,800 tokens).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from rave_mlx import backend
from rave_mlx.config import LMMConfig
from rave_mlx.models.lmm import LMM
from rave_mlx.train.config import TrainConfig
from rave_mlx.train.dataset import Dataset
from rave_mlx.train.loss import CHUNK_SCORES
from rave_mlx.train.parameters import trained_weights

_STATE = {"adamw": 8, "lion": 4, "muon": 4, "adafactor": 1}
"""Bytes of optimizer state for each trained number."""
_HIDDEN, _INNER, _HEADS = 7, 5, 4
"""Arrays of each width that a layer keeps for its gradient, measured on a CPU and rounded up."""
_BLOCK, _BLOCKS = 1 << 21, 24
"""Attention scores of one block of queries, and how many such arrays are in flight."""
_SCORES = 4
"""Arrays of vocabulary scores that exist at once while a piece of the loss is computed again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Estimate:
    """Bytes: of the weights; of gradients, optimizer state and float32 copies; of the largest micro-batch."""

    weights: int
    state: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.state + self.activations


def estimate(lmm: LMM, config: TrainConfig, rows: Dataset, processes: int = 1) -> Estimate:
    """What a run will take in each process; the model is prepared for training."""
    weights = sum(x.nbytes for x in lmm.named_weights().values())
    chosen = trained_weights(lmm)
    numbers = sum(x.size for x in chosen.values())
    copies = sum(4 * x.size for x in chosen.values() if x.dtype != mx.float32)
    # A gradient, the sum of those before it, and new weights and state before the old ones go.
    state = numbers * (8 + 2 * _STATE[config.optimizer] + 4) + copies
    held = -(-config.batch_size // processes)
    visual = max(row.visual for row in rows.stats)
    return Estimate(weights, state, _activations(lmm, config, held * max(rows.lengths), held * visual, visual))


def check(lmm: LMM, config: TrainConfig, rows: Dataset, processes: int = 1) -> int:
    """Estimate, and refuse a run that cannot fit; returns the estimate in bytes.

    Raises:
        MemoryLimitError: naming the option that would help most.
    """
    need = estimate(lmm, config, rows, processes)
    # The weights are in memory already.
    backend.check_memory(need.total - need.weights, "training", remedy(lmm, config, need))
    return need.total


def remedy(lmm: LMM, config: TrainConfig, need: Estimate) -> str:
    """What to do when it does not fit."""
    packed = any(isinstance(m, (nn.QuantizedLinear, nn.QuantizedEmbedding)) for _, m in lmm.named_modules())
    if need.activations >= need.state:
        if config.batch_size > 1:
            more = config.accumulate * config.batch_size
            return f"use --batch-size 1 --accumulate {more}, which computes the same updates"
        if not config.checkpointing:
            return "use --checkpointing"
        return "lower --image-tokens or --max-tokens"
    if config.full:
        return "train low-rank updates instead of whole parts (leave --train out)"
    if config.optimizer == "adamw":
        return "use --optimizer lion or adafactor, or a lower --rank"
    return "lower --rank" if packed else "lower --rank, or use a quantized base"


def _activations(lmm: LMM, config: TrainConfig, tokens: int, visual: int, largest: int) -> int:
    """Of a micro-batch with so many tokens, so many of them visual; `largest` are those of one row.

    Features of a tower that does not train are made before, image by image: the larger of the two counts.
    """
    text, size = lmm.config.text, lmm.decoder.norm.weight.dtype.size
    heads = (text.num_heads + 2 * text.num_kv_heads) * text.head_dim
    layer = tokens * size * (_HIDDEN * text.hidden_size + _INNER * text.intermediate_size + _HEADS * heads)
    kept = tokens * size * text.hidden_size * text.num_layers
    decoder = layer + kept if config.checkpointing else layer * text.num_layers
    scores = _SCORES * 4 * min(CHUNK_SCORES, tokens * text.vocab_size)
    whole = decoder + scores + _blocks(tokens, text.num_heads)
    if {"vision", "connector"} & set(config.full):
        return whole + _tower(lmm.config, visual, layers=None)
    return max(whole, _tower(lmm.config, largest, layers=2))


def _tower(config: LMMConfig, visual: int, layers: int | None) -> int:
    """Activations of as many of the tower's layers (None: all), from its visual tokens."""
    vision = config.vision
    if vision is None or not visual:
        return 0
    patches = visual * getattr(config.image, "merge_size", 1) ** 2
    layer = _HIDDEN * vision.hidden_size + _INNER * vision.intermediate_size + _HEADS * 3 * vision.hidden_size
    return 4 * patches * layer * (layers or vision.depth) + _blocks(patches, vision.num_heads)


def _blocks(length: int, heads: int) -> int:
    return 4 * _BLOCKS * min(_BLOCK, heads * length * length)
