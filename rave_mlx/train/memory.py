"""How much memory a run will take, before it starts, and what would make it fit.

Weights, gradients and optimizer state are counted; activations are estimated for the largest micro-batch that the
data can make. The estimate leans to the safe side: it was set against measured peaks (tests/test_train_memory.py).
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
_HIDDEN, _INNER, _HEADS = 12, 8, 8
"""Arrays of each width that a layer keeps for its gradient, casts and copies included."""
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
    tokens = held * max(rows.lengths)
    return Estimate(weights, state, _activations(lmm, config, tokens))


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


def _activations(lmm: LMM, config: TrainConfig, tokens: int) -> int:
    text, size = lmm.config.text, lmm.decoder.norm.weight.dtype.size
    heads = (text.num_heads + 2 * text.num_kv_heads) * text.head_dim
    layer = tokens * size * (_HIDDEN * text.hidden_size + _INNER * text.intermediate_size + _HEADS * heads)
    kept = tokens * size * text.hidden_size * text.num_layers
    decoder = layer + kept if config.checkpointing else layer * text.num_layers
    scores = _SCORES * 4 * min(CHUNK_SCORES, tokens * text.vocab_size)
    return decoder + scores + (_tower(lmm.config, tokens) if _trains_images(config) else 0)


def _trains_images(config: TrainConfig) -> bool:
    return bool({"vision", "connector"} & set(config.full))


def _tower(config: LMMConfig, tokens: int) -> int:
    """Activations of a tower, as if all tokens were visual."""
    vision = config.vision
    if vision is None:
        return 0
    merged = getattr(config.image, "merge_size", 1) ** 2
    return 4 * tokens * merged * vision.depth * (_HIDDEN * vision.hidden_size + _INNER * vision.intermediate_size)
