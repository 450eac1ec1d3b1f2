"""VFlowOpt: visual tokens pruned by one importance map in the vision tower and in the decoder (arXiv 2508.05211,
ICCV 2025), without training.

In the tower's last layer, with A its attention between patches, mean over heads:

    received = mean over queries of A;   global tokens: received > threshold * mean(received)
    importance = mean row of A at the global tokens + alpha * softmax(entropy of the patch's grey levels, in bits)

Before the decoder the least important tokens go, and each cell of them comes back as one, their mean by importance
("recycling"). Before two decoder layers, more go by the same map; what is left keeps its position.

The parameters are searched for each model by the authors (Bayesian optimisation over 30 samples, against the hidden
state of the last token); the presets are the ones that they ship for LLaVA-OneVision-7B (`sihany077/VFlowOpt`, 129eeef)
to keep 50, 25 or 10 % on average over the layers. The search is not here.

Experimental, for details that were not at hand: cells are averaged after the connector, where the code works on the
tower's output; every tile, and the tiles of LLaVA-NeXT put together, is pruned by itself; newlines and class tokens
stay and do not count; `cell` is the side of a cell in tokens; where no token is global, all are. Towers of square
tiles only, with a visual token for each patch or square of patches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx import backend
from rave_mlx.config import LMMConfig, ResamplerConfig, TileConfig, TileVisionConfig
from rave_mlx.errors import UsageError
from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.inputs.prompt.message import ImagePart, Message
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.hooks import KeptTokens
from rave_mlx.models.lmm import LMM
from rave_mlx.models.vision.tiled import TileVision
from rave_mlx.policies.methods.debias import best, one_prompt
from rave_mlx.policies.methods.vflowopt_map import (
    Places,
    PrunedPatches,
    attention,
    patch_entropies,
    places,
    recycle,
    tile_importance,
)
from rave_mlx.policies.policy import Context
from rave_mlx.policies.rereading.policy import RereadingPolicy


@dataclass(frozen=True)
class VFlowOpt(RereadingPolicy):
    """Drops and merges visual tokens before the decoder, and drops more inside it.

    Attributes:
        threshold: how many times the mean attention a token must receive to be global.
        cell: side of the cells that dropped tokens are merged in, in tokens.
        keep: share of the visual tokens that enter the decoder, merged ones included; 1: all, none is merged.
        later: shares of those at hand that go on before the layers `before`.
        before: counted in a model of `of` layers and taken at the same relative depth in another.
        of: see `before`.
        alpha: how much the entropy of a patch counts.
    """

    name: ClassVar[str] = "vflowopt"
    originals: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "50": {},
        "25": {"threshold": 34.760, "cell": 15.581, "keep": 0.2651, "later": (0.9833, 0.8773)},
        "10": {"threshold": 39.265, "cell": 17.387, "keep": 0.1166, "later": (1.0, 0.6011)},
    }
    prefix_reusable: ClassVar[bool] = False
    chunkable: ClassVar[bool] = False

    threshold: float = 28.683
    cell: float = 11.757
    keep: float = 0.7233
    later: tuple[float, ...] = (0.7487, 0.487)
    before: tuple[int, ...] = (9, 18)
    of: int = 28
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if len(self.later) != len(self.before):
            raise UsageError("--attention vflowopt: later and before must be lists of one length")
        if not all(0 < share <= 1 for share in (self.keep, *self.later)):
            raise UsageError("--attention vflowopt: keep and later are shares above 0, up to 1")
        if not all(0 < layer < self.of for layer in self.before):
            raise UsageError(f"--attention vflowopt: before {self.before}: give layers from 1 to {self.of - 1}")
        if self.cell < 1:
            raise UsageError(f"--attention vflowopt: cell is {self.cell:g}; a cell is at least 1 token wide")

    def check(self, config: LMMConfig) -> None:
        tower = config.vision
        if tower is None:
            raise UsageError("--attention vflowopt: this model reads text only; there are no visual tokens to drop")
        if not isinstance(tower, TileVisionConfig):
            raise UsageError(
                f"--attention vflowopt: the vision tower of this {config.family} model is no plain transformer over "
                "square tiles, for which the method is defined; use debias or visiondrop"
            )
        if isinstance(config.connector, ResamplerConfig):
            raise UsageError(
                f"--attention vflowopt: this {config.family} model makes visual tokens of learned queries, which "
                "stand nowhere in the image; use debias or visiondrop"
            )
        if set(tower.feature_layers) == {0}:
            raise UsageError(f"--attention vflowopt: no layer of the tower is used in this {config.family} model")
        if len(config.text.attention_layers) < 2:
            raise UsageError("--attention vflowopt: this model has one layer; none is left for fewer tokens")

    def layers(self, count: int) -> Collection[int]:
        return sorted(self._stages(count))

    def _stages(self, count: int) -> dict[int, float]:
        """Shares that go on, by the layer after which the others are dropped."""
        stages: dict[int, float] = {}
        for layer, share in zip(self.before, self.later, strict=True):
            after = max(1, layer * count // self.of) - 1
            stages[after] = stages.get(after, 1.0) * share
        return stages

    def revise(
        self, lmm: LMM, messages: Sequence[Message], gate: bool | None, features: MutableMapping[str, mx.array]
    ) -> list[Message]:
        def pruned(part: Any) -> Any:
            return (
                replace(part, patches=self._pruned(lmm, part.patches, features))
                if isinstance(part, ImagePart)
                else part
            )

        return [replace(message, parts=tuple(map(pruned, message.parts))) for message in messages]

    def plan(self, lmm: LMM, prompt: Prompt, features: Mapping[str, mx.array]) -> Mapping[str, Any]:
        """Importance of the prompt's tokens; images that `revise` has not seen are pruned in the decoder only."""
        importance = np.full(len(prompt), np.inf)
        for index, image in enumerate(prompt.images):
            found = image.importance if isinstance(image, PrunedPatches) else self.rank_tokens(lmm, image)[1].importance
            importance[prompt.token_map.image == index] = found
        return {"importance": importance}

    def after_block(self, ctx: Context, x: mx.array) -> KeptTokens | None:
        if ctx.phase == "decode":
            return None
        one_prompt(self, x)
        importance: NDArray[np.float64] = ctx.plan["importance"]
        if importance.size != len(ctx.tokens):
            raise UsageError("--attention vflowopt does not go with another method that drops visual tokens")
        ranked = np.flatnonzero(np.isfinite(importance))
        count = max(1, round(ranked.size * self._stages(ctx.num_layers)[ctx.layer]))
        if count >= ranked.size:
            return None
        chosen = ranked[best(importance[ranked], count)]
        index = np.union1d(np.flatnonzero(~np.isfinite(importance)), chosen)
        ctx.plan["importance"] = importance[index]
        return KeptTokens(mx.array(index.astype(np.int32)[None]))

    def rank_tokens(self, lmm: LMM, image: ImagePatches) -> tuple[mx.array, Places]:
        """The image's visual tokens (tokens, hidden) as the decoder would read them, their places and importance."""
        config, tower, connector = lmm.config.vision, lmm.vision, lmm.config.connector
        assert isinstance(config, TileVisionConfig)
        assert isinstance(tower, TileVision)
        assert isinstance(lmm.config.image, TileConfig)
        assert connector is not None
        with backend.row_parallel():
            states, layer, entering = tower.read(mx.array(image.pixels).astype(tower.positions.dtype), image.grid)
            tokens = lmm.connector(states, image)
            mx.eval(tokens, entering)
        weights = attention(tower.layers[layer], entering, config.num_heads, int(config.class_token))
        entropies = patch_entropies(image, lmm.config.image) if self.alpha else [None] * len(weights)
        values = [tile_importance(w, self.threshold, e, self.alpha) for w, e in zip(weights, entropies, strict=True)]
        return tokens, places(np.stack(values), image, config, connector)

    def _pruned(self, lmm: LMM, image: ImagePatches, features: MutableMapping[str, mx.array]) -> PrunedPatches:
        """The image with fewer visual tokens, whose features are put beside the others."""
        tokens, found = self.rank_tokens(lmm, image)
        index = np.arange(found.importance.size)
        if self.keep < 1:
            index, merged, shares = recycle(found, self.keep, self.cell)
            if merged.size:
                means = mx.array(shares) @ tokens.astype(mx.float32)
                tokens = tokens.at[mx.array(merged)].add(means.astype(tokens.dtype) - tokens[mx.array(merged)])
            tokens = tokens[mx.array(index)]
        digest = hashlib.sha256(repr((image.digest, self.name, astuple(self))).encode()).hexdigest()
        mx.eval(tokens)
        features[digest] = tokens
        # Not `replace`: the result is of another class.
        known = {f.name: getattr(image, f.name) for f in fields(image)}
        return PrunedPatches(
            **known | {"digest": digest, "layout": _layout(image.layout, index)}, importance=found.importance[index]
        )


def _layout(layout: Sequence[str | int], index: NDArray[np.int64]) -> tuple[str | int, ...]:
    """What stands in the prompt when only the tokens `index` (ascending) are left."""
    parts: list[str | int] = []
    start = 0
    for part in layout:
        if isinstance(part, str):
            parts.append(part)
        else:
            parts.append(int(((index >= start) & (index < start + part)).sum()))
            start += part
    return tuple(parts)
