"""Training DyVTE's router: at a random layer of each example, was the image still needed?

The example's answer is read twice under teacher forcing, with the image in all layers and with the exit after the
layer. The router learns to leave (label 1) where both agree: more than 99 % of the tokens have the same argmax, and the
loss without the image is below 1.03 times the loss with it (arXiv 2411.19628; the numbers are the released code's).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.optimizers import AdamW

from rave_mlx.errors import UsageError
from rave_mlx.generation.decode import step
from rave_mlx.generation.prefill import prefill
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.hooks import KeptTokens
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.methods.dyvte import DyVTE, Router, feature
from rave_mlx.policies.policy import Context, Policy
from rave_mlx.policies.runtime import PolicyRuntime

Report = Callable[[int, float], None]
"""Told the number of the step and its loss."""


@dataclass(frozen=True)
class Example:
    """A prompt with images, and the ids of a good answer to it."""

    prompt: Prompt
    answer: tuple[int, ...]


@dataclass(frozen=True)
class RouterConfig:
    """How a router is trained.

    Attributes:
        steps, batch_size: optimizer steps, and examples in each.
        learning_rate: of AdamW; 6e-5 in the released code.
        agreement: least share of equal argmax tokens.
        tolerance: largest ratio of the losses.
        width: of the router's hidden layer.
        seed: of weights, layers and order.
    """

    steps: int = 500
    batch_size: int = 16
    learning_rate: float = 6e-5
    agreement: float = 0.99
    tolerance: float = 1.03
    width: int = 2048
    seed: int = 0


def train_router(lmm: LMM, examples: Sequence[Example], config: RouterConfig, report: Report | None = None) -> Router:
    """A router for a model, whose own weights stay as they are; gates are left out.

    Raises:
        UsageError: without examples, or for one without image or answer.
    """
    if not examples or any(not e.answer or not e.prompt.images for e in examples):
        raise UsageError("a router learns from examples, each with an image and an answer")
    mx.random.seed(config.seed)
    rng = np.random.default_rng(config.seed)
    count = len(lmm.config.text.attention_layers)
    router = Router(count, lmm.config.text.hidden_size, config.width)
    optimizer = AdamW(config.learning_rate)
    update = nn.value_and_grad(router, partial(_loss, router))
    for number in range(config.steps):
        batch = []
        for _ in range(config.batch_size):
            layer = int(rng.integers(count - 1))
            example = examples[int(rng.integers(len(examples)))]
            batch.append((layer, *label(lmm, example, layer, config)))
        loss, gradient = update(batch)
        optimizer.update(router, gradient)
        mx.eval(router.parameters(), optimizer.state)
        if report is not None:
            report(number, float(loss))
    return router


def label(lmm: LMM, example: Example, layer: int, config: RouterConfig) -> tuple[mx.array, int]:
    """The router's feature after a layer, and whether the image may leave there."""
    look = _Feature(layer)
    full, found = _answer_logits(lmm, example, look)
    early, _ = _answer_logits(lmm, example, DyVTE(exit=layer))
    answer = mx.array(example.answer)
    losses = [float(nn.losses.cross_entropy(scores, answer, reduction="mean")) for scores in (full, early)]
    same = float(mx.mean(mx.argmax(full, axis=-1) == mx.argmax(early, axis=-1)))
    assert found is not None
    return found, int(same > config.agreement and losses[1] < config.tolerance * losses[0])


def _loss(router: Router, batch: Sequence[tuple[int, mx.array, int]]) -> mx.array:
    scores = mx.stack([router(layer, found) for layer, found, _ in batch])
    loss: mx.array = nn.losses.cross_entropy(scores, mx.array([leave for _, _, leave in batch]), reduction="mean")
    return loss


def _answer_logits(lmm: LMM, example: Example, policy: Policy) -> tuple[mx.array, mx.array | None]:
    """Logits (n, vocab) of the answer's tokens under teacher forcing, and what a `_Feature` found."""
    runtime = PolicyRuntime(lmm, (policy,))
    cache = lmm.make_cache(gate=False, hooks=runtime)
    rows = [prefill(lmm, example.prompt, cache)]
    found = runtime.state(policy, policy.layer).get("feature") if isinstance(policy, _Feature) else None
    position = example.prompt.token_map.next_position
    for place, token in enumerate(example.answer[:-1]):
        rows.append(step(lmm, cache, mx.array([token]), position + place))
    return mx.concatenate(rows), found


@dataclass(frozen=True)
class _Feature(Policy):
    """Keeps the router's feature after a layer."""

    needs_visual: ClassVar[bool] = False

    layer: int = 0

    def layers(self, count: int) -> list[int]:
        return [self.layer]

    def after_block(self, ctx: Context, x: mx.array) -> KeptTokens | None:
        if ctx.start == 0:
            ctx.state["feature"] = feature(x, ctx.tokens)
        return None
