"""PAI (arXiv 2407.21771, ECCV 2024) and PAINT (arXiv 2501.12206, CVPRW 2025): visual scores raised, without training.

For the token that is about to be written, the score s of a visual key becomes s + strength * |s|, in all heads of all
layers but the first two.

PAI adds alpha |s| to every visual key (`LALBJ/PAI`, 4a085d1). Its second half, guidance against the text-only
prediction, acts on logits and is the policy `guidance`.

PAINT asks the vision tower which tokens matter: alpha for the quarter that the class token attends to most in the
tower's first layer ("local"), beta for the outliers (above Q3 + 1.5 IQR) of its last layer but one ("summary"), which
win where both apply; the others keep their scores (`hasanar1f/llava-hallunication-fix`, c5ee7da). The paper's best
beta is 0.4, the code's default 0.3; the abstract's head-specific modulation is not visible in that code. PAINT needs a
tower with a class token and one visual token a patch, as LLaVA 1.5 has; `pai` runs on every model with images.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.config import LMMConfig, MlpConnectorConfig, TileVisionConfig
from rave_mlx.errors import UsageError
from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.lmm import LMM
from rave_mlx.models.vision.tiled import TileLayer, TileVision
from rave_mlx.policies.policy import Context, Policy, Rows
from rave_mlx.policies.profiling import depths, fitted


@dataclass(frozen=True)
class PAI(Policy):
    """Raises the scores of all visual keys.

    Attributes:
        alpha: strength; 0 changes nothing. 0.2 in the commands that the code's authors give.
        first, last: steered layers, both included, counted in a model of `of` layers and taken at the same relative
            depth in another.
        of: see there.
    """

    name: ClassVar[str] = "pai"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"released": {}}
    rows: ClassVar[Rows] = "last"

    alpha: float = 0.2
    first: int = 2
    last: int = 31
    of: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last < self.of:
            raise UsageError(
                f"--attention {self.name}: layers {self.first} to {self.last} are not layers 0 to {self.of - 1}"
            )

    def check(self, config: LMMConfig) -> None:
        if config.vision is None:
            raise UsageError(f"--attention {self.name}: this model reads text only; it has no visual keys")

    def layers(self, count: int) -> Collection[int]:
        return depths(self.first, self.last, self.of, count)

    def edit_scores(self, ctx: Context, scores: mx.array) -> mx.array:
        return raised(scores, self.alpha * ctx.visual[:, None, None])


@dataclass(frozen=True)
class PAINT(PAI):
    """Raises the scores of the visual keys that the vision tower marks.

    Attributes:
        alpha: strength for local tokens.
        beta: strength for summary tokens.
        share: how many of an image's tokens are local.
    """

    name: ClassVar[str] = "paint"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"beta": 0.4}, "released": {}}

    alpha: float = 0.7
    beta: float = 0.3
    share: float = 0.25

    def check(self, config: LMMConfig) -> None:
        super().check(config)
        tower, connector = config.vision, config.connector
        if not isinstance(tower, TileVisionConfig) or not tower.class_token:
            raise UsageError(
                f"--attention paint: the vision tower of this {config.family} model has no class token, whose "
                "attention chooses the tokens; use pai"
            )
        if not isinstance(connector, MlpConnectorConfig) or connector.newline or tower.keep_class_token:
            raise UsageError(
                f"--attention paint: this {config.family} model does not make one visual token of each patch; use pai"
            )

    def plan(self, lmm: LMM, prompt: Prompt, features: Mapping[str, mx.array]) -> Mapping[str, Any]:
        config, tower = lmm.config.vision, lmm.vision
        assert isinstance(config, TileVisionConfig)
        assert isinstance(tower, TileVision)
        strength = np.zeros(len(prompt), np.float32)
        for index, image in enumerate(prompt.images):
            local, summary = class_attention(tower, image, config.num_heads)
            marked = strengths(local, summary, self.alpha, self.beta, self.share)
            strength[prompt.token_map.image == index] = marked
        return {"strength": mx.array(strength)}

    def edit_scores(self, ctx: Context, scores: mx.array) -> mx.array:
        return raised(scores, fitted(ctx.plan["strength"], ctx.keys))


def raised(scores: mx.array, strength: mx.array) -> mx.array:
    """s + strength |s|."""
    return scores + strength * mx.abs(scores)


def strengths(
    local: NDArray[np.float32], summary: NDArray[np.float32], alpha: float, beta: float, share: float
) -> NDArray[np.float32]:
    """How much each visual token's score is raised (tokens,): alpha, beta, or 0.

    Args:
        local: (tokens,) attention of the class token in the tower's first layer.
        summary: the same in its last layer but one.
        alpha: for the largest of `local`.
        beta: for the outliers of `summary` (above Q3 + 1.5 IQR), which win where both apply.
        share: how many of the tokens are among the largest.
    """
    strength = np.zeros(local.size, np.float32)
    strength[np.argsort(-local, kind="stable")[: int(local.size * share)]] = alpha
    low, high = np.percentile(summary, [25, 75])
    strength[summary > high + 1.5 * (high - low)] = beta
    return strength


def class_attention(tower: TileVision, image: ImagePatches, heads: int) -> list[NDArray[np.float32]]:
    """Attention of the class token to the patches, in a tower's first layer and in its last but one.

    Args:
        tower: with a class token.
        image: what it reads.
        heads: of the tower.

    Returns:
        Two arrays (tiles * patches,), summed over heads.
    """
    x = _embedded(tower, image)
    last = max(0, len(tower.layers) - 2)
    found = [_class_weights(tower.layers[0], x, heads)]
    for layer in tower.layers[:last]:
        x = layer(x)
    found.append(_class_weights(tower.layers[last], x, heads))
    return [np.array(weights).reshape(-1) for weights in found]


def _embedded(tower: TileVision, image: ImagePatches) -> mx.array:
    """What enters the tower's first layer (tiles, 1 + patches, hidden)."""
    tiles, rows, columns = image.grid
    x = tower.patch_embed(mx.array(image.pixels).astype(tower.positions.dtype)).reshape(tiles, rows * columns, -1)
    first = mx.broadcast_to(tower.class_token, (tiles, 1, x.shape[-1]))
    x = mx.concatenate([first, x], axis=1) + tower.positions
    return tower.pre_norm(x) if "pre_norm" in tower else x


def _class_weights(layer: TileLayer, x: mx.array, heads: int) -> mx.array:
    """The class token's attention (tiles, patches), float32, summed over heads, in a layer that x enters."""
    q, k, _ = (y.astype(mx.float32) for y in layer.attention.project(layer.norm1(x)))
    tiles, length, hidden = k.shape
    q = q[:, :1].reshape(tiles, 1, heads, -1).swapaxes(1, 2)
    k = k.reshape(tiles, length, heads, -1).transpose(0, 2, 3, 1)
    weights = mx.softmax(q @ k * (hidden // heads) ** -0.5, axis=-1)
    return mx.sum(weights, axis=1)[:, 0, 1:]
