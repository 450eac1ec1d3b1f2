"""What a trained reader gets right on held-out pages, and where its attention goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from numpy.random import default_rng
from torch import Tensor

from recipes.ablation.model import watched
from recipes.ablation.mutual import Reader
from recipes.ablation.pages import KINDS, Kind, make_batch
from recipes.ablation.variants import Variant
from recipes.builtin.data import Batch
from recipes.builtin.losses import see
from recipes.builtin.tokens import IMAGE_PREFIX

HELD_OUT = 9_000_000
"""Seeds of the pages that are measured on; training pages have smaller ones."""
PAGES = 8
"""Pages of a batch."""


@dataclass(frozen=True)
class Looking:
    """Where answers look, means over the tokens of answers, by decoder layer and head (depth, heads).

    Attributes:
        target: share of attention on the visual token where the next character stands.
        hit: how often that token has the most attention of all visual tokens.
        visual: share of attention on the image.
        empty: share of the attention on the image that goes to visual tokens on which nothing is printed.
    """

    target: Tensor
    hit: Tensor
    visual: Tensor
    empty: Tensor

    def pointing(self) -> float:
        """`hit` of the head that has the most attention on targets."""
        return float(self.hit.flatten()[self.target.argmax()])


@dataclass(frozen=True)
class Measured:
    """Held-out figures of a kind of page.

    Attributes:
        right: whether each question was answered exactly, page by page.
        loss: mean loss of an answer's token.
        looking: see `Looking`.
    """

    right: list[list[bool]]
    loss: float
    looking: Looking

    @property
    def exact(self) -> float:
        """Share of questions that were answered exactly."""
        answers = [one for page in self.right for one in page]
        return sum(answers) / len(answers)


def held_out(kind: Kind, pages: int) -> Iterable[Batch]:
    """Batches of pages that no training has seen, always the same."""
    for number in range(-(-pages // PAGES)):
        yield make_batch(default_rng(HELD_OUT + 1000 * KINDS.index(kind) + number), kind, PAGES)


@torch.no_grad()
def measure(model: Reader, variant: Variant, kind: Kind, pages: int) -> Measured:
    """Answers of a reader to all questions about held-out pages.

    An answer counts where every token, its end included, is the most likely one after those before it: then greedy
    decoding writes just it.

    Args:
        model: the reader, with what the variant added.
        variant: what it is.
        kind: of the pages.
        pages: how many, in batches of `PAGES`.
    """
    model = watched(model, variant)
    right: list[list[bool]] = []
    losses, sums = [], []
    for batch in held_out(kind, pages):
        ids, segment, place, label, target = (
            torch.from_numpy(a) for a in (batch.ids, batch.segment, batch.place, batch.label, batch.target)
        )
        image = torch.from_numpy(batch.image)
        depth = len(model.language_model.layers)
        tokens = see(model, image)
        grid = batch.rows.shape[1], batch.rows.shape[2]
        decoded = model.decode(tokens, grid, ids, segment, place, target, tuple(range(depth)))
        asked = label >= 0
        scores = model.logits(decoded.hidden).float()
        losses.append(float(torch.nn.functional.cross_entropy(scores[asked], label[asked])))
        wrong = asked & (scores.argmax(-1) != label)
        for page, numbers in zip(wrong, segment, strict=True):
            right.append([not bool(page[numbers == n].any()) for n in range(int(numbers.max()) + 1)])
        sums.append(_looking(decoded.looks, target, torch.from_numpy(batch.cells[..., 1:5].any(-1)).flatten(1)))
    mean = torch.stack(sums).mean(0)
    return Measured(right, sum(losses) / len(losses), Looking(*mean))


def _looking(looks: list[Tensor], target: Tensor, printed: Tensor) -> Tensor:
    """(4, depth, heads): the parts of `Looking` for a batch.

    Args:
        looks: of each layer, attention (B, heads, T, keys).
        target: (B, T), visual tokens, -1 where there is none.
        printed: (B, N), which visual tokens have characters.
    """
    start, count = len(IMAGE_PREFIX), printed.shape[1]
    known = target >= 0
    out = []
    for look in looks:
        image = look[..., start : start + count].transpose(1, 2)[known]
        visual = image.sum(-1)
        there = target[known][:, None, None].expand(-1, image.shape[1], 1)
        blank = ~printed[:, None].expand(-1, target.shape[1], -1)[known][:, None]
        out.append(
            torch.stack(
                [
                    image.gather(2, there)[..., 0].mean(0),
                    (image.argmax(-1) == there[..., 0]).float().mean(0),
                    visual.mean(0),
                    ((image * blank).sum(-1) / visual.clamp(min=1e-9)).mean(0),
                ]
            )
        )
    return torch.stack(out, 1)
