"""How much memory a run will take, before it starts, and what would make it fit.

Weights, gradients and optimizer state are counted; activations are estimated for the largest micro-batch that the
data can make. Their formula was fitted to measured peaks of six decoders of different shapes (hidden size 128 to 768, 2
to 16 layers, 4 to 28 heads, vocabulary 272 to 60,000; rows of 180 to 1,230 tokens, LoRA, DoRA, whole decoders, with and
without --checkpointing, float32 and bfloat16, on a CPU): the estimate is 0.85 to 1.55 times what was measured.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from rave_mlx import backend
from rave_mlx.config import LMMConfig, PatchVisionConfig, QueryVisionConfig, TextConfig, TileConfig
from rave_mlx.models.delta_rule import CHUNK
from rave_mlx.models.lmm import LMM
from rave_mlx.train.config import TrainConfig
from rave_mlx.train.dataset import Dataset
from rave_mlx.train.loss import CHUNK_SCORES
from rave_mlx.train.parameters import trained_weights

_STATE = {"adamw": 8, "lion": 4, "muon": 4, "adafactor": 1}
"""Bytes of optimizer state for each trained number."""
Widths = tuple[float, float, float]
"""So many arrays as wide as the hidden states, as the MLP's inner states, as all queries, keys and values."""
_KEPT: Widths = (2, 2.5, 1)
"""What a layer keeps for its gradient; with DoRA, whose magnitudes need outputs too, `_DORA` times as much."""
_DORA = 2.2
_WORK: Widths = (12, 6, 4)
"""What exists beside that while the gradient of one layer is computed; in 16 bits some of it is float32 still."""
_ROWS, _BLOCKS = 128, 8
"""Queries of a block of attention scores (`attention.backward`), and how many arrays of such a block exist at once."""
_LINEAR = 3
"""Arrays of the width of its queries, keys, values and gates that linear attention keeps where attention keeps one."""
_SCORES = 3
"""Arrays of vocabulary scores that exist at once while a piece of the loss is computed again."""
_MARGIN = 1.1

_TOWER: Widths = (7, 5, 4)
_TOWER_BLOCK, _TOWER_BLOCKS = 1 << 21, 24
"""The same for the vision tower, whose attention holds blocks of so many scores (`attention.chunked`)."""

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
    visual, scored = (max(getattr(row, name) for row in rows.stats) for name in ("visual", "trained_tokens"))
    decoder = _decoder(lmm, config, held * max(rows.lengths), held * scored)
    if {"vision", "connector"} & set(config.full):
        return Estimate(weights, state, decoder + _tower(lmm.config, held * visual, layers=None))
    # Features of a tower that does not train are made before, image by image.
    return Estimate(weights, state, max(decoder, _tower(lmm.config, visual, layers=2)))


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


def _decoder(lmm: LMM, config: TrainConfig, tokens: int, scored: int) -> int:
    """Of a micro-batch with so many tokens, so many of which are trained on."""
    text, size = lmm.config.text, lmm.decoder.norm.weight.dtype.size
    widths = text.hidden_size, _inner(text), _heads(text)
    kept = text.hidden_size if config.checkpointing else _wide(_KEPT, widths)
    # Experts, which are most of a layer, have no updates.
    if config.adapter is not None and config.adapter.kind == "dora" and not (config.checkpointing or text.experts):
        kept *= _DORA
    work = tokens * (2 + size / 2) * _wide(_WORK, widths) + 4 * _BLOCKS * text.num_heads * _ROWS * tokens
    if text.linear is not None:
        # Products of a chunk's tokens with each other, and a state a chunk.
        state = text.linear.key_dim * text.linear.value_dim
        work += 4 * tokens * text.linear.value_heads * (16 * CHUNK + 4 * state // CHUNK)
    scores = _SCORES * 4 * min(CHUNK_SCORES, scored * text.vocab_size)
    return round(_MARGIN * (tokens * size * text.num_layers * kept + max(work, scores)))


def _heads(text: TextConfig) -> float:
    """The width of all queries, keys and values, of linear attention with what they are made of; mean over layers."""
    queries = text.num_heads * (1 + text.output_gate) * sum(map(text.head_dim_of, text.attention_layers))
    attention = (queries + 2 * text.key_numbers) / len(text.attention_layers)
    if text.linear is None:
        return attention
    linear = _LINEAR * (text.linear.channels + text.linear.value_heads * text.linear.value_dim)
    return attention + (linear - attention) * len(text.linear.layers) / text.num_layers


def _inner(text: TextConfig) -> int:
    """The width of what is between the matrices of a layer's MLP, or of all the experts that a token passes through.

    Every one of these experts reads and writes states as wide as the decoder, too; and the outputs wait for their
    shares.
    """
    experts = text.experts
    if experts is None:
        return text.intermediate_size
    return experts.chosen * (experts.intermediate_size + text.hidden_size) + (experts.shared_size or 0)


def _tower(config: LMMConfig, visual: int, layers: int | None) -> int:
    """Activations of as many of the tower's layers (None: all), from its visual tokens."""
    vision = config.vision
    if vision is None or not visual:
        return 0
    image = config.image
    if isinstance(image, TileConfig):
        patches = -(-visual * (image.tile_size // image.patch_size) ** 2 // image.tile_tokens)
    else:
        patches = visual * getattr(image, "merge_size", 1) ** 2
    if isinstance(vision, QueryVisionConfig):
        # An encoder of queries, which are few, follows a tower of patches.
        vision = vision.patches
    if isinstance(vision, PatchVisionConfig):
        return 4 * patches * (vision.channels * vision.patch_size**2 + 4 * vision.hidden_size)
    layer = _wide(_TOWER, (vision.hidden_size, vision.intermediate_size, 3 * vision.hidden_size))
    scores = min(_TOWER_BLOCK, vision.num_heads * patches * patches)
    return round(4 * patches * layer * (layers or vision.depth)) + 4 * _TOWER_BLOCKS * scores


def _wide(arrays: Widths, widths: tuple[int, int, float]) -> float:
    return sum(count * width for count, width in zip(arrays, widths, strict=True))
