"""Modality-mutual attention (AKI, arXiv 2503.02597) in the reader: image tokens see the question, not the answer.

What an image token becomes then depends on the question, so that a page is read once for each of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.ablation.pages import QUESTION_TOKENS
from recipes.builtin.model import Decoded, Nano
from recipes.builtin.tokens import IMAGE_PREFIX


class Reader(Nano):
    """The reader, with a causal mask unless `mutual` is set.

    Attributes:
        mutual: image tokens see the question behind them.
    """

    mutual = False

    def decode(
        self,
        tokens: Tensor,
        grid: tuple[int, int],
        ids: Tensor,
        segment: Tensor,
        place: Tensor,
        target: Tensor | None = None,
        watched: tuple[int, ...] = (),
        tapped: int = 0,
    ) -> Decoded:
        """As `Nano.decode`; with `mutual`, all questions have to be equally long and nothing is padded."""
        if not self.mutual:
            return super().decode(tokens, grid, ids, segment, place, target, watched, tapped)
        pages, questions = len(ids), int(segment.max()) + 1
        rows = pages * questions
        where = None if target is None else target.reshape(rows, -1)
        images = tokens.repeat_interleave(questions, 0)
        hidden, looks = self._alone(images, grid, ids.reshape(rows, -1), place.reshape(rows, -1), where, watched)
        packed = [_packed(look, questions, 2) for look in looks]
        return Decoded(hidden.reshape(pages, ids.shape[1], -1), packed, tokens)

    def _alone(
        self,
        tokens: Tensor,
        grid: tuple[int, int],
        ids: Tensor,
        place: Tensor,
        target: Tensor | None,
        watched: tuple[int, ...],
    ) -> tuple[Tensor, list[Tensor]]:
        """States and looks of one question behind each page."""
        x, head, cos, sin = self.embedded(tokens, grid, ids, place)
        visual = (len(IMAGE_PREFIX), len(IMAGE_PREFIX) + tokens.shape[1])
        mask = mutual_mask(head, ids.shape[1], visual).to(x.dtype)
        looks: list[Tensor] = []
        for i, layer in enumerate(self.language_model.layers):
            where = target if i in watched else None
            padded = None if where is None else F.pad(where, (head, 0), value=-1)
            x, _, seen = layer(x, cos, sin, (None, mask), visual, None, False, padded)
            looks += [] if seen is None else [seen[:, :, head:]]
        return self.language_model.norm(x)[:, head:], looks


def mutual_mask(head: int, count: int, visual: tuple[int, int]) -> Tensor:
    """Additive mask (1, 1, L, L) of a page with one question: causal, and the image sees the question.

    Args:
        head: tokens before the question.
        count: tokens of the question and its answer.
        visual: first and behind-the-last place of the image.
    """
    mask = torch.full((head + count, head + count), float("-inf")).triu(1)
    mask[visual[0] : visual[1], head : head + QUESTION_TOKENS] = 0.0
    return mask[None, None]


def _packed(look: Tensor, questions: int, axis: int) -> Tensor:
    """(pages * questions, heads, T, ...) with the questions of a page behind each other along `axis`."""
    pages = look.reshape(-1, questions, *look.shape[1:]).movedim(1, axis)
    return pages.flatten(axis, axis + 1)
