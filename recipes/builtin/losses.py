"""What a step of the built-in reader's training minimizes.

Answers, and three auxiliary losses on what the generator knows: which characters a visual token covers, in which line
of the page it stands, and where on the page the next character of an answer stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.builtin.config import TrainConfig
from recipes.builtin.data import CHARACTERS, SLOTS, UNCOUNTED, Batch
from recipes.builtin.device import autocast, is_fast, put
from recipes.builtin.layers import normalise
from recipes.builtin.model import Nano
from recipes.builtin.vision import make_grid, pixels


def cell_loss(model: Nano, tokens: Tensor, cells: Tensor) -> Tensor:
    """Cross entropy of the characters of every cell; empty cells weigh a tenth.

    Args:
        model: whose `cells` head predicts them.
        tokens: visual tokens, (B, N, width).
        cells: (B, rows, columns, SLOTS) classes.
    """
    target = cells.long().flatten(1, 2)
    weight = (target[..., 1:2] > 0).float() * 0.9 + 0.1
    scores = model.cells(tokens).float().view(-1, CHARACTERS)
    loss = F.cross_entropy(scores, target.reshape(-1), reduction="none").view(target.shape)
    return (loss * weight).sum() / (weight.sum() * SLOTS)


def row_loss(model: Nano, visual: Tensor, rows: Tensor) -> Tensor:
    """Cross entropy of the line number of every cell with text.

    Args:
        model: whose `rows` head predicts it.
        visual: decoder states of visual tokens, (B, N, width).
        rows: (B, N) line numbers; `UNCOUNTED` is left out.
    """
    scores = model.rows(normalise(visual)).float().flatten(0, 1)
    counted = (rows != UNCOUNTED).sum().clamp(min=1)
    return F.cross_entropy(scores, rows.flatten(), ignore_index=UNCOUNTED, reduction="sum") / counted


def look_loss(looks: list[Tensor], heads: tuple[int, ...], target: Tensor, weight: Tensor) -> Tensor:
    """Minus the mean logarithm of the attention that goes where the next character stands, where that is known.

    Args:
        looks: of each watched layer, (B, heads, T).
        heads: the heads that are taught.
        target: (B, T) visual tokens, -1 where not known.
        weight: (B, T) of a character in the loss.
    """
    known = target >= 0
    seen = torch.stack([look[:, list(heads)].mean(1) for look in looks]).mean(0)
    return -(seen[known] * weight[known]).sum() / weight[known].sum().clamp(min=1)


@dataclass(frozen=True)
class Losses:
    """Parts of a step's loss; those that are not learnt yet are zero."""

    answer: Tensor
    cells: Tensor
    rows: Tensor
    look: Tensor

    def total(self, supervision: float, config: TrainConfig) -> Tensor:
        """Their sum; `supervision` weighs the characters of visual tokens."""
        return self.answer + supervision * self.cells + config.counting * self.rows + config.looking * self.look


def see(model: Nano, image: Tensor) -> Tensor:
    """Visual tokens (B, N, width) of grey pages (B, H, W), bytes."""
    height, width = image.shape[1:]
    shown = pixels(image)
    shown = shown.bfloat16() if is_fast() else shown
    tokens: Tensor = model.visual(shown, make_grid(height, width, model.c.vision_width // model.c.vision_heads))
    return tokens


def losses(model: Nano, batch: Batch, head_only: bool, config: TrainConfig) -> Losses:
    """The losses of a batch, computed in bfloat16 where the processor has it, else in float32.

    Args:
        model: in training.
        batch: of one canvas size.
        head_only: only the characters of visual tokens, without a gradient for the tower.
        config: which layers and heads are taught to look.
    """
    with autocast():
        tokens = see(model, put(batch.image))
        if head_only:
            tokens = tokens.detach()
        cells = cell_loss(model, tokens, put(batch.cells))
        if head_only:
            return Losses(torch.zeros(()), cells, torch.zeros(()), torch.zeros(()))
        return replace(answer_losses(model, tokens, batch, config), cells=cells)


def answer_losses(model: Nano, tokens: Tensor, batch: Batch, config: TrainConfig) -> Losses:
    """The losses of the decoder on visual tokens; `cells` is zero.

    Args:
        model: in training.
        tokens: visual tokens of the batch, (B, N, width).
        batch: whose image and cells are not looked at.
        config: which layers and heads are taught to look.
    """
    height, width = batch.rows.shape[1:]
    ids, segment, place, target = (put(a) for a in (batch.ids, batch.segment, batch.place, batch.target))
    layers = config.looking_layers, config.counting_layer
    hidden, looks, visual = model.decode(tokens, (height, width), ids, segment, place, target, *layers)
    zero = torch.zeros(())
    rows = row_loss(model, visual, put(batch.rows).flatten(1)) if config.counting else zero
    label, weight = put(batch.label), put(batch.weight)
    asked = label >= 0
    loss = F.cross_entropy(model.logits(hidden[asked]).float(), label[asked], reduction="none")
    answer = (loss * weight[asked]).sum() / weight[asked].sum()
    look = look_loss(looks, config.looking_heads, target, weight) if config.looking_layers else zero
    return Losses(answer, zero, rows, look)
