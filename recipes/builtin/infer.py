"""Greedy answers of the torch reader, with the image read once for all questions about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from recipes.builtin import packed
from recipes.builtin.data import CHARACTERS, LINES, SLOTS
from recipes.builtin.layers import CELL, NanoConfig, causal
from recipes.builtin.model import Cache, Nano
from recipes.builtin.tokens import END_OF_TEXT, IMAGE_PREFIX, TURN_END, decode, question_ids
from recipes.builtin.vision import make_grid

LEAST_PIXELS, MOST_PIXELS = 64 * 64, 512 * 512


def canvas(width: int, height: int) -> tuple[int, int]:
    """Size (width, height) the image processor gives a page: multiples of 16, area in bounds (HF `smart_resize`)."""
    w, h = (max(CELL, round(v / CELL) * CELL) for v in (width, height))
    if w * h > MOST_PIXELS:
        beta = math.sqrt(width * height / MOST_PIXELS)
        return tuple(max(CELL, math.floor(v / beta / CELL) * CELL) for v in (width, height))  # type: ignore[return-value]
    if w * h < LEAST_PIXELS:
        beta = math.sqrt(LEAST_PIXELS / (width * height))
        return tuple(math.ceil(v * beta / CELL) * CELL for v in (width, height))  # type: ignore[return-value]
    return w, h


def load_image(image: Image.Image) -> Tensor:
    """A page as the network takes it: resampled, grey, (1, H, W) in [-1, 1]."""
    shown = image.convert("RGB").resize(canvas(*image.size), Image.Resampling.BICUBIC)
    grey = np.asarray(shown, np.float32).mean(-1)
    return torch.from_numpy(grey)[None] / 127.5 - 1


class Reader:
    """A trained reader, for evaluation.

    Args:
        directory: of a training, a rave directory, or with `model.safetensors` and perhaps `gates.safetensors`.
        gate: False leaves the gates out.
    """

    def __init__(self, directory: Path, gate: bool = True) -> None:
        gated = (directory / "gates.safetensors").is_file() or not (directory / "model.safetensors").is_file()
        has_gate = gate and (gated or packed.is_packed(directory))
        self.model = Nano(NanoConfig(), has_gate, SLOTS, CHARACTERS, LINES).eval()
        packed.load_any(self.model, directory)

    def answer(self, image: Image.Image, questions: Sequence[str], most: int = 64) -> list[str]:
        """Greedy answers to independent questions about one image.

        Args:
            image: the page.
            questions: each of which is asked on its own.
            most: tokens of an answer.
        """
        return [text for text, _ in self.sure_answers(image, questions, most)]

    @torch.no_grad()
    def sure_answers(self, image: Image.Image, questions: Sequence[str], most: int = 64) -> list[tuple[str, float]]:
        """Greedy answers to independent questions about one image, with the probability of their least likely token.

        Args:
            image: the page.
            questions: each of which is asked on its own.
            most: tokens of an answer.
        """
        model = self.model
        grey = load_image(image)
        height, width = grey.shape[1:]
        tokens = model.visual(grey, make_grid(height, width, model.c.vision_width // model.c.vision_heads))
        x, positions = model.prefix(tokens, (height // CELL, width // CELL))
        cos, sin = model.rope(positions[:, None])
        visual = (len(IMAGE_PREFIX), len(IMAGE_PREFIX) + tokens.shape[1])
        caches: list[Cache] = []
        masks = causal(x.shape[1]), None
        for layer in model.language_model.layers:
            x, cache, _ = layer(x, cos, sin, masks, visual)
            caches.append(cache)
        start = int(positions[0, -1]) + 1
        asked = [question_ids(q) for q in questions]
        # Questions of one length share a batch, so that nothing needs padding.
        out = [("", 0.0)] * len(asked)
        for size in sorted({len(a) for a in asked}):
            places = [i for i, a in enumerate(asked) if len(a) == size]
            ids = torch.tensor([asked[i] for i in places])
            for i, pair in zip(places, self._generate(ids, caches, visual, start, most), strict=True):
                out[i] = pair
        return out

    def _generate(
        self, ids: Tensor, caches: list[Cache], visual: tuple[int, int], start: int, most: int
    ) -> list[tuple[str, float]]:
        """Answers to questions of one length, (B, T) ids, behind an image whose keys and values are in `caches`."""
        batch = ids.shape[0]
        done = torch.zeros(batch, dtype=torch.bool)
        made: list[Tensor] = []
        sure = torch.ones(batch)
        position = start
        for _ in range(most):
            hidden, caches = self._step(ids, caches, visual, position)
            position += ids.shape[1]
            likely, chosen = self.model.logits(hidden[:, -1]).float().softmax(-1).max(-1)
            sure = torch.where(done, sure, torch.minimum(sure, likely))
            chosen = torch.where(done, torch.tensor(END_OF_TEXT), chosen)
            done |= (chosen == TURN_END) | (chosen == END_OF_TEXT)
            made.append(chosen)
            if bool(done.all()):
                break
            ids = chosen[:, None]
        rows = torch.stack(made, 1)
        return [(decode(row.tolist()), float(p)) for row, p in zip(rows, sure, strict=True)]

    def _step(
        self, ids: Tensor, caches: list[Cache], visual: tuple[int, int], position: int
    ) -> tuple[Tensor, list[Cache]]:
        """Final states of the next tokens, and the caches grown by them."""
        model = self.model
        x = model.language_model.embed_tokens(ids)
        batch, length = ids.shape
        places = torch.arange(position, position + length)[None, None].expand(3, batch, -1)
        cos, sin = model.rope(places)
        before = caches[0][1].shape[2]
        mask = F.pad(causal(length), (before, 0))
        grown = []
        for layer, past in zip(model.language_model.layers, caches, strict=True):
            x, cache, _ = layer(x, cos, sin, (None, mask), visual, past)
            grown.append(cache)
        return model.language_model.norm(x), grown
