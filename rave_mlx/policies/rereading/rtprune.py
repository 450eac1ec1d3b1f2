"""RTPrune: visual tokens dropped before the decoder, and what they said given to those that stay (arXiv 2605.00392,
ICML 2026), without training.

With x_j the visual tokens of an image and t the embeddings of the text after it:

    relevance_j = mean over the text of x_j . t;  the floor(N keep) most relevant tokens stay, in reading order
    Z = [[cos(x_stay, x_dropped), 1], [1, 1]]  with one more row and column for mass that goes nowhere
    T = optimal transport of Z: 100 Sinkhorn iterations, where that row and column may take all of the others' mass
    x_stay <- x_stay + 0.1 T x_dropped

Tokens that show no part of the image (line breaks, separators, class tokens) always stay and do not count; of a run of
equal ones that becomes one by what is dropped between them, one stays. What stays keeps its rotary positions.

This is the released code (`BurnWan/RTPrune`, for DeepSeek-OCR; keep 0.75). Its text says that tokens of a large norm
stay and that the share follows from the density of print: no formula for that share was at hand, so it is a setting.
With several images, each is pruned by itself, for the text behind it. Features of DeepStack are merged like the tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import MutableMapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx import backend
from rave_mlx.config import TileConfig
from rave_mlx.errors import UsageError
from rave_mlx.generation.encoding import encode
from rave_mlx.inputs.images.patches import ImagePatches
from rave_mlx.inputs.images.token_boxes import locate_tokens
from rave_mlx.inputs.prompt.message import ImagePart, Message
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.methods.debias import best
from rave_mlx.policies.rereading.policy import RereadingPolicy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RTPrune(RereadingPolicy):
    """Drops the visual tokens that the question says least about, and merges them into the others.

    Attributes:
        keep: share of the visual tokens of every image that stays; 1: all.
        merge: how much of what was dropped is added.
        iterations: of the optimal transport.
    """

    name: ClassVar[str] = "rtprune"
    originals: ClassVar[bool] = False
    drops: ClassVar[bool] = True

    keep: float = 0.75
    merge: float = 0.1
    iterations: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise UsageError(f"--attention rtprune: keep is {self.keep:g}; it is a share above 0, up to 1")
        if self.iterations < 1:
            raise UsageError(f"--attention rtprune: iterations is {self.iterations}; at least 1 is needed")

    def revise(
        self, lmm: LMM, messages: Sequence[Message], gate: bool | None, features: MutableMapping[str, mx.array]
    ) -> list[Message]:
        if self.keep == 1:
            return list(messages)
        prompt = lmm.tokenize(messages)
        pruned = iter([self._pruned(lmm, prompt, index, features) for index in range(len(prompt.images))])

        def revised(part: Any) -> Any:
            return replace(part, patches=next(pruned)) if isinstance(part, ImagePart) else part

        return [replace(message, parts=tuple(map(revised, message.parts))) for message in messages]

    def _pruned(self, lmm: LMM, prompt: Prompt, index: int, features: MutableMapping[str, mx.array]) -> ImagePatches:
        """An image with fewer visual tokens, and what the decoder reads of them."""
        image, tokens = prompt.images[index], prompt.token_map
        if image.kept is not None:
            return image
        text = prompt.ids[0, int(np.flatnonzero(tokens.image == index)[-1]) + 1 :]
        text = text[~tokens.visual[len(prompt) - len(text) :]]
        if not text.size:
            return image
        name = hashlib.sha256(repr((image.digest, self.name, astuple(self), text.tolist())).encode()).hexdigest()
        if image.digest not in features:
            features[image.digest] = encode(lmm, image)
        x = features[image.digest]
        with backend.row_parallel():
            about = mx.mean(lmm.decoder.embed_ids(mx.array(text)).astype(mx.float32), axis=0)
            relevance = np.array(x[:, : about.shape[0]].astype(mx.float32) @ about, dtype=np.float64)
            free = ~fixed_tokens(lmm, image)
            stay, dropped = split(relevance, free, self.keep)
            if not stay.size or not dropped.size:
                return image
            merged = merge(x[mx.array(stay)], x[mx.array(dropped)], self.merge, self.iterations)
            x = x.at[mx.array(stay)].add(merged - x[mx.array(stay)])
            kept = without_runs(np.setdiff1d(np.arange(len(free)), dropped), free, np.array(x.astype(mx.float32)))
            found = np.array(x[mx.array(kept)].astype(mx.float32))
        return replace(image, digest=name, kept=kept, features=found)


def fixed_tokens(lmm: LMM, image: ImagePatches) -> NDArray[np.bool_]:
    """(tokens,) marks of an image's visual tokens that always stay: they show no part of it, and are no padding."""
    config, connector = lmm.config.image, lmm.config.connector
    assert config is not None
    assert connector is not None
    boxes = locate_tokens(image, config, connector).boxes
    nowhere: NDArray[np.bool_] = np.logical_or.reduce(np.isnan(boxes), axis=1)
    if isinstance(config, TileConfig) and config.plan == "single" and config.fit == "pad":
        # Tokens of the padding show nothing either; a class token comes first, where there is one.
        nowhere = (np.arange(len(boxes)) == 0) & (int(config.tile_tokens**0.5) ** 2 != config.tile_tokens)
    return nowhere


def split(relevance: Floats, free: NDArray[np.bool_], keep: float) -> tuple[Ints, Ints]:
    """Tokens that stay and tokens that are dropped, among those that are free (N,), by their relevance (N,)."""
    own = np.flatnonzero(free)
    values = relevance[own]
    values = (values - values.min(initial=0)) / (np.ptp(values) + 1e-8) if values.size else values
    chosen = best(values, int(own.size * keep))
    return own[chosen], np.delete(own, chosen)


def transport(similarity: mx.array, iterations: int) -> mx.array:
    """Optimal transport between M tokens that stay and P that are dropped, from their similarity (M, P): (M, P).

    Every token has the mass 1; one more row and one more column, of similarity 1, take what is left over.
    """
    rows, columns = similarity.shape
    z = mx.pad(similarity.astype(mx.float32), [(0, 1), (0, 1)], constant_values=1.0)
    norm = -float(np.log(rows + columns))
    mu = mx.array([norm] * rows + [float(np.log(columns)) + norm])[:, None]
    nu = mx.array([norm] * columns + [float(np.log(rows)) + norm])[None]
    u, v = mx.zeros_like(mu), mx.zeros_like(nu)
    for _ in range(iterations):
        u = mu - mx.logsumexp(z + v, axis=1, keepdims=True)
        v = nu - mx.logsumexp(z + u, axis=0, keepdims=True)
        mx.eval(u, v)
    return mx.exp(z + u + v - norm)[:-1, :-1]


def merge(stay: mx.array, dropped: mx.array, weight: float, iterations: int) -> mx.array:
    """Tokens that stay (M, hidden) with their share of those that are dropped (P, hidden), in their type.

    Args:
        stay, dropped: see above.
        weight: of what is added.
        iterations: as of `transport`.
    """
    a, b = (x.astype(mx.float32) for x in (stay, dropped))
    units = [x / mx.maximum(mx.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in (a, b)]
    return (a + weight * (transport(units[0] @ units[1].T, iterations) @ b)).astype(stay.dtype)


def without_runs(kept: Ints, free: NDArray[np.bool_], x: NDArray[np.float32]) -> Ints:
    """Kept tokens without those fixed ones that follow an equal fixed one.

    Args:
        kept: their indices, ascending.
        free: (N,) marks of the tokens that are not fixed.
        x: (N, hidden) all tokens.
    """
    first = [
        not (i and not free[kept[i]] and not free[kept[i - 1]] and np.array_equal(x[kept[i]], x[kept[i - 1]]))
        for i in range(kept.size)
    ]
    chosen: Ints = kept[np.array(first, bool)]
    return chosen
