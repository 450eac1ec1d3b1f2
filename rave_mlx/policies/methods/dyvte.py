"""DyVTE: dynamic visual-token exit (arXiv 2411.19628, NeurIPS 2025).

At some depth the text has taken from the image what it needs; then all visual tokens leave, and the later layers never
see them. After each layer a small router reads the text that follows the image and decides:

    feature = [mean of its states without the last; the last state];  logits = W2 GELU(W1 feature);
    exit after the first layer with logits[0] < logits[1]

Positions keep their values, and keys and values of the layers before the exit keep the image (as in the released
code, `DoubtedSteam/DyVTE`, b4a3396). Only the router is trained (`rave_mlx.train.dyvte_router`); `exit` names a layer
instead, for experiments. With several images the text after the last one counts: the code has one image at a fixed
place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from rave_mlx.config import LMMConfig
from rave_mlx.errors import UsageError
from rave_mlx.models.hooks import KeptTokens
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.methods.debias import one_prompt, refuse_borrowed
from rave_mlx.policies.policy import Context, Policy
from rave_mlx.policies.tokens import Tokens


@dataclass(frozen=True)
class DyVTE(Policy):
    """Drops all visual tokens after the layer that a trained router chooses, or after a given one.

    Attributes:
        router: file of a trained router.
        exit: last layer that sees the image; takes the router's place.
    """

    name: ClassVar[str] = "dyvte"
    prefix_reusable: ClassVar[bool] = False
    chunkable: ClassVar[bool] = False

    router: str | None = None
    exit: int | None = None

    def __post_init__(self) -> None:
        if (self.router is None) == (self.exit is None):
            raise UsageError("--attention dyvte: give either router=FILE or exit=LAYER")

    def check(self, config: LMMConfig) -> None:
        count = len(config.text.attention_layers)
        if config.vision is None:
            raise UsageError("--attention dyvte: this model reads text only; there are no visual tokens to leave")
        refuse_borrowed(self.name, config)
        if self.exit is not None and not 0 <= self.exit < count:
            raise UsageError(f"--attention dyvte: exit {self.exit}: the model has layers 0 to {count - 1}")
        if self.router is not None:
            Router.open(Path(self.router)).check(self.router, count, config.text.hidden_size)

    def layers(self, count: int) -> Collection[int]:
        return range(count - 1) if self.exit is None else [self.exit]

    def prepare(self, lmm: LMM) -> Mapping[str, Any]:
        return {} if self.router is None else {"router": Router.open(Path(self.router))}

    def after_block(self, ctx: Context, x: mx.array) -> KeptTokens | None:
        visual = ctx.tokens.visual
        if ctx.phase == "decode" or ctx.start > 0 or not visual.any():
            return None
        one_prompt(self, x)
        if self.exit is None:
            scores = ctx.plan["router"](ctx.layer, feature(x, ctx.tokens))
            if not bool((scores[0] < scores[1]).item()):
                return None
        return KeptTokens(mx.array(np.flatnonzero(~visual[0]).astype(np.int32)[None]))


def feature(x: mx.array, tokens: Tokens) -> mx.array:
    """What the router reads (2 hidden,), float32, from a block's output (1, L, hidden)."""
    start = int(np.flatnonzero(tokens.visual[0])[-1]) + 1
    states = x[0].astype(mx.float32)
    last = states[-1]
    # Where nothing but the last token follows the image, there is no mean of the others.
    others = mx.mean(states[start:-1], axis=0) if start < x.shape[1] - 1 else last
    return mx.concatenate([others, last])


class Router(nn.Module):
    """Two layers without biases for each decoder layer: W1 (layers, width, 2 hidden), W2 (layers, 2, width)."""

    def __init__(self, layers: int, hidden: int, width: int = 2048):
        super().__init__()
        self.w1 = mx.random.normal((layers, width, 2 * hidden)) * (2 * hidden) ** -0.5
        self.w2 = mx.random.normal((layers, 2, width)) * width**-0.5

    def __call__(self, layer: int, feature: mx.array) -> mx.array:
        """Scores (2,) of staying and of leaving after a layer."""
        hidden: mx.array = self.w1[layer] @ feature
        scores: mx.array = self.w2[layer] @ nn.gelu(hidden)
        return scores

    def check(self, name: str, layers: int, hidden: int) -> None:
        """Refuse a router that was trained for another model.

        Args:
            name: of the router's file, for the message.
            layers: how many layers the model has.
            hidden: its hidden size.

        Raises:
            UsageError: with both models' sizes.
        """
        if (self.w1.shape[0], self.w1.shape[2]) != (layers, 2 * hidden):
            raise UsageError(
                f"--attention dyvte: {name} is for a model of {self.w1.shape[0]} layers and hidden size "
                f"{self.w1.shape[2] // 2}, this one has {layers} and {hidden}"
            )

    def save(self, path: Path) -> None:
        """Write the router, whole or not at all."""
        beside = path.with_name(f".{path.stem}.part.safetensors")
        mx.save_safetensors(str(beside), {"w1": self.w1, "w2": self.w2}, metadata={"format": "mlx"})
        beside.replace(path)

    @classmethod
    def open(cls, path: Path) -> Router:
        """Read a router.

        Raises:
            UsageError: for a file that is none.
        """
        if not path.is_file():
            raise UsageError(f"--attention dyvte: {path} does not exist; train a router, or give exit=LAYER")
        try:
            tensors = mx.load(str(path), format="safetensors")
        except RuntimeError as error:
            raise UsageError(f"--attention dyvte: {path} is not a router file ({error})") from None
        assert isinstance(tensors, dict)
        if set(tensors) != {"w1", "w2"} or tensors["w1"].ndim != 3 or tensors["w2"].ndim != 3:
            raise UsageError(f"--attention dyvte: {path} is not a router file; it holds {', '.join(sorted(tensors))}")
        layers, width, double = tensors["w1"].shape
        router = cls(layers, double // 2, width)
        router.load_weights(list(tensors.items()), strict=True)
        return router
