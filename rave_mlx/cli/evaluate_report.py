"""The map of where a model looked, for the report of `rave-mlx evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from rave_mlx.evaluate.html_report import Looker

if TYPE_CHECKING:
    from rave_mlx.evaluate.failures import Failure
    from rave_mlx.models.lmm import LMM
    from rave_mlx.policies.policy import Attention

_MOST_TOKENS = 64
"""Tokens of an answer that are looked at: longer ones would take much memory, and say little in one map."""
_LONGEST_SIDE = 1000


def looker(lmm: LMM, policy: Attention, image_tokens: int | None) -> Looker:
    """Answers questions again, one by one, and draws the mean map of each answer over its first image.

    Args:
        lmm: the model.
        policy: attention policy, as of `Session`.
        image_tokens: budget of visual tokens an image.
    """
    from rave_mlx.look import collect
    from rave_mlx.look.colors import tint

    def look(failure: Failure) -> Image.Image:
        item = failure.item
        content = [{"type": "image", "image": image} for image in (item.image, *item.more)]
        content.append({"type": "text", "text": item.question})
        limit = min(item.longest, _MOST_TOKENS)
        seen = collect(
            lmm, [{"role": "user", "content": content}], policy=policy, max_tokens=limit, image_tokens=image_tokens
        )
        picture = seen.images[0].picture.copy()
        picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
        heat = seen.heat(seen.over(), 0, picture.size)
        return tint(picture, heat / (np.abs(heat).max() or 1.0))

    return look
