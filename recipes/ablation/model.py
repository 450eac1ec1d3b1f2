"""The small reader of the ablation, and what a variant adds to it; every addition changes nothing at first."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.ablation.mutual import Reader
from recipes.ablation.variants import GateForm, Variant
from recipes.builtin.data import CHARACTERS, LINES, SLOTS
from recipes.builtin.layers import NanoConfig, SwiGLU, normalise
from recipes.builtin.model import Cache, DecoderBlock

SHAPE = NanoConfig(
    vision_width=64,
    vision_depth=1,
    vision_heads=2,
    vision_mlp=176,
    full_attention_layers=(),
    width=128,
    depth=4,
    heads=4,
    kv_heads=2,
    head_dim=32,
    mlp=256,
    rope_theta=4.0,
    rope_sections=(4, 6, 6),
)
"""0.88 M parameters."""


class Gate(nn.Module):
    """b = phi(x), x = (U q)(W k)/sqrt(r) + a.q + c.k + beta, with the terms that its form has.

    Args:
        c: shape of the reader.
        form: see `GateForm`. `U` is drawn from N(0, 1/d), all else starts at zero, and with it the bias.
    """

    def __init__(self, c: NanoConfig, form: GateForm) -> None:
        super().__init__()
        self.form, self.limit, self.ratio = form, c.gate_limit, c.heads // c.kv_heads
        self.groups = c.kv_heads if form.groups is None else form.groups
        heads = self.groups * self.ratio
        zeros = torch.zeros
        self.U = nn.Parameter(torch.randn(heads, form.rank, c.head_dim) * c.head_dim**-0.5) if form.rank else None
        self.W = nn.Parameter(zeros(self.groups, form.rank, c.head_dim)) if form.rank else None
        self.a = nn.Parameter(zeros(heads, c.head_dim)) if form.query else None
        self.c = nn.Parameter(zeros(self.groups, c.head_dim)) if form.key else None
        self.beta = nn.Parameter(zeros(heads)) if form.constant else None

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """The bias (B, heads, L, N); zero for heads that are not gated.

        Args:
            q: queries (B, heads, L, d).
            k: keys (B, kv_heads, N, d).
        """
        heads = self.groups * self.ratio
        idle = q.shape[1] - heads
        q, k = normalise(q[:, :heads]), normalise(k[:, : self.groups])
        x = q.new_zeros(q.shape[0], heads, q.shape[2], k.shape[2])
        if self.U is not None and self.W is not None:
            features = (k @ self.W.transpose(1, 2)).repeat_interleave(self.ratio, 1)
            x = x + (q @ (self.U * self.U.shape[1] ** -0.5).transpose(1, 2)) @ features.transpose(2, 3)
        if self.a is not None:
            x = x + (q * self.a[:, None]).sum(-1, keepdim=True)
        if self.c is not None:
            x = x + (k * self.c[:, None]).sum(-1).repeat_interleave(self.ratio, 1)[:, :, None]
        if self.beta is not None:
            x = x + self.beta[:, None, None]
        return F.pad(self._squash(x), (0, 0, 0, 0, 0, idle))

    def _squash(self, x: Tensor) -> Tensor:
        if self.form.squash == "identity":
            return x
        if self.form.squash == "tanh":
            return self.limit * torch.tanh(x / self.limit)
        if self.form.squash == "suppress":
            return F.logsigmoid(x) + math.log(2)
        return F.softplus(x) - math.log(2)


class Block(DecoderBlock):
    """A decoder layer with any form of the gate."""

    def _bias(self, q: Tensor, q0: Tensor, cache: Cache, mask: Tensor, visual: tuple[int, int]) -> Tensor:
        gate: Gate | None = self.gate  # type: ignore[assignment]
        if gate is None:
            return mask
        queries, keys = (q0, cache[0]) if gate.form.features == "pre_rope" else (q, cache[1])
        start, end = visual if gate.form.keys == "visual" else (0, keys.shape[2])
        return mask + F.pad(gate(queries, keys[:, :, start:end]), (start, keys.shape[2] - end))


class WatchedBlock(Block):
    """A decoder layer that, asked for looks, gives the attention of every row of the questions (B, heads, T, keys)."""

    def _seen(
        self, q: Tensor, q0: Tensor, cache: Cache, mask: Tensor, visual: tuple[int, int], target: Tensor
    ) -> Tensor:
        return self._scores(q, q0, cache, mask, visual).softmax(-1)


class Adapted(nn.Module):
    """A linear layer with a low-rank adapter (LoRA, Hu et al. 2021): y = W x + B A x, B zero at first."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.A = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """`base` and what the adapter adds."""
        y: Tensor = self.base(x) + (x @ self.A.T) @ self.B.T
        return y


class Widened(nn.Module):
    """An MLP with more hidden units, whose outputs are zero at first."""

    def __init__(self, base: SwiGLU, units: int) -> None:
        super().__init__()
        self.base, width = base, base.gate_proj.in_features
        self.more = SwiGLU(width, units, bias=False)
        nn.init.zeros_(self.more.down_proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`base` and what the units add."""
        y: Tensor = self.base(x) + self.more(x)
        return y


def make(shape: NanoConfig = SHAPE, block: type[DecoderBlock] = Block) -> Reader:
    """The reader without gates, freshly initialised from torch's generator, its layers made of `block`."""
    model = Reader(shape, False, SLOTS, CHARACTERS, LINES, block)
    nn.init.normal_(model.language_model.embed_tokens.weight, std=shape.width**-0.5)
    for p in model.rows.parameters():
        p.requires_grad_(False)  # Lines are not counted here.
    return model


def add(model: Reader, variant: Variant) -> list[nn.Parameter]:
    """Put into the reader what a variant has more than it; the parameters that were added.

    Args:
        model: changed in place; its own parameters are frozen where the variant says so.
        variant: what to add.
    """
    before = {id(p) for p in model.parameters()}
    model.mutual = variant.mutual
    if variant.frozen:
        model.requires_grad_(False)
    for layer in model.language_model.layers:
        if variant.gate is not None:
            layer.gate = Gate(model.c, variant.gate)
        if variant.lora is not None:
            ranks = variant.lora[0], variant.lora[0], variant.lora[1]
            for name, rank in zip(("q_proj", "k_proj", "v_proj"), ranks, strict=True):
                setattr(layer.self_attn, name, Adapted(getattr(layer.self_attn, name), rank))
        if variant.wider:
            layer.mlp = Widened(layer.mlp, variant.wider)
    return [p for p in model.parameters() if id(p) not in before]


def watched(model: Reader, variant: Variant) -> Reader:
    """The same reader, a variant's additions included, made to show its attention."""
    copy = make(model.c, WatchedBlock)
    add(copy, variant)
    copy.load_state_dict(model.state_dict())
    return copy
