"""The built-in reader as a compact torch module: a small Qwen2.5-VL (arXiv 2502.13923) with pair gates.

Equal to `transformers.Qwen2_5_VLForConditionalGeneration` up to rounding (tests/parity/test_recipe.py), but batched,
on grey images (the patch filter of a grey image is the sum over colours and time), and with several questions
packed behind one image: a block mask lets each segment see the image and itself only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.builtin.layers import NanoConfig, RMSNorm, SwiGLU, attend, causal, normalise, rotate
from recipes.builtin.tokens import IMAGE_PREFIX, VISION_END, VOCABULARY
from recipes.builtin.vision import Visual


class PairGate(nn.Module):
    """b = limit * tanh(x / limit), x = (U q)(W k)/sqrt(r) + a.q + c.k + beta, on RMS-normalised pre-RoPE heads.

    RAVE (arXiv 2605.18359), our parametrisation; zero at the start, but W gets gradient because U is not zero.
    """

    def __init__(self, c: NanoConfig) -> None:
        super().__init__()
        self.limit, self.groups = c.gate_limit, c.heads // c.kv_heads
        self.U = nn.Parameter(torch.randn(c.heads, c.gate_rank, c.head_dim) * c.head_dim**-0.5)
        self.W = nn.Parameter(torch.zeros(c.kv_heads, c.gate_rank, c.head_dim))
        self.a = nn.Parameter(torch.zeros(c.heads, c.head_dim))
        self.c = nn.Parameter(torch.zeros(c.kv_heads, c.head_dim))
        self.beta = nn.Parameter(torch.zeros(c.heads))

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """q: (B, heads, L, d), k: (B, kv_heads, N, d), before RoPE; the bias (B, heads, L, N)."""
        q, k = normalise(q), normalise(k).repeat_interleave(self.groups, 1)
        dtype = q.dtype
        w = self.W.to(dtype).repeat_interleave(self.groups, 0)
        c = self.c.to(dtype).repeat_interleave(self.groups, 0)
        rank = w.shape[1]
        u = q @ (self.U.to(dtype) * rank**-0.5).transpose(1, 2)
        alone = (q * self.a.to(dtype)[:, None]).sum(-1, keepdim=True) + self.beta.to(dtype)[:, None, None]
        u = torch.cat([u, alone, torch.ones_like(alone)], -1)
        key = (k * c[:, None]).sum(-1, keepdim=True)
        v = torch.cat([k @ w.transpose(1, 2), torch.ones_like(key), key], -1)
        return self.limit * torch.tanh((u / self.limit) @ v.transpose(2, 3))


class TextAttention(nn.Module):
    """Projections of a decoder block, grouped queries."""

    def __init__(self, c: NanoConfig) -> None:
        super().__init__()
        self.q_proj = nn.Linear(c.width, c.heads * c.head_dim)
        self.k_proj = nn.Linear(c.width, c.kv_heads * c.head_dim)
        self.v_proj = nn.Linear(c.width, c.kv_heads * c.head_dim)
        self.o_proj = nn.Linear(c.heads * c.head_dim, c.width, bias=False)


Cache = tuple[Tensor, Tensor, Tensor]
"""Of one layer and a prefix: keys before RoPE, keys, values, each (B, kv_heads, L, d)."""


class DecoderBlock(nn.Module):
    """Attention, gated on visual keys, and MLP of the decoder, pre-norm."""

    def __init__(self, c: NanoConfig) -> None:
        super().__init__()
        self.c = c
        self.input_layernorm = RMSNorm(c.width)
        self.post_attention_layernorm = RMSNorm(c.width)
        self.self_attn = TextAttention(c)
        self.mlp = SwiGLU(c.width, c.mlp, False)
        self.gate: PairGate | None = None

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        masks: tuple[Tensor | None, Tensor | None],
        visual: tuple[int, int],
        past: Cache | None = None,
        last: bool = False,
        target: Tensor | None = None,
    ) -> tuple[Tensor, Cache, Tensor | None]:
        """One block over a prefix (control tokens and image), questions, or both.

        Args:
            x: (B, L, D), the prefix in front.
            cos, sin: (B, L, 1, d), rotary tables.
            masks: additive; (*, 1, P, P) of the prefix, whose tokens see only each other, and (*, 1, T, keys) of the
                questions behind it; None where there is no such part.
            visual: first and behind-the-last place of the visual keys.
            past: keys and values of what was read before, for generation.
            last: leave the prefix out of the result, since no later layer reads it.
            target: (B, T), for each row of the questions a visual token that it should look at.

        Returns:
            The states of the rows that were computed; the keys and values of all rows; with `target`, the logarithm of
            the attention that goes to the target and the tokens beside it, (B, heads, T).
        """
        b, length, _ = x.shape
        c, a = self.c, self.self_attn
        h = self.input_layernorm(x)
        q0 = a.q_proj(h).view(b, length, c.heads, c.head_dim)
        k0 = a.k_proj(h).view(b, length, c.kv_heads, c.head_dim)
        v = a.v_proj(h).view(b, length, c.kv_heads, c.head_dim).transpose(1, 2)
        q, k = rotate(q0, cos, sin).transpose(1, 2), rotate(k0, cos, sin).transpose(1, 2)
        q0, k0 = q0.transpose(1, 2), k0.transpose(1, 2)
        if past is not None:
            k0, k, v = (
                torch.cat([old.expand(b, -1, -1, -1), new], 2) for old, new in zip(past, (k0, k, v), strict=True)
            )
        before, behind = masks
        split = 0 if before is None else before.shape[-1]
        outs = []
        if before is not None and not last:
            outs.append(self._attend(q[:, :, :split], q0[:, :, :split], (k0, k, v), split, before, visual))
        seen = None
        if behind is not None:
            asked = q[:, :, split:], q0[:, :, split:]
            outs.append(self._attend(*asked, (k0, k, v), k.shape[2], behind, visual))
            if target is not None:
                seen = self._seen(*asked, (k0, k, v), behind, visual, target)
        out = torch.cat(outs, 2) if len(outs) > 1 else outs[0]
        x = x[:, length - out.shape[2] :]
        x = x + a.o_proj(out.transpose(1, 2).reshape(b, out.shape[2], -1))
        return x + self.mlp(self.post_attention_layernorm(x)), (k0, k, v), seen

    def _attend(self, q: Tensor, q0: Tensor, cache: Cache, keys: int, mask: Tensor, visual: tuple[int, int]) -> Tensor:
        """Attention of some queries over the first `keys` keys, biased by the gate on the visual ones."""
        k0, k, v = (t[:, :, :keys] for t in cache)
        groups = self.c.heads // self.c.kv_heads
        bias = self._bias(q, q0, (k0, k, v), mask, visual)
        return attend(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), bias)

    def _bias(self, q: Tensor, q0: Tensor, cache: Cache, mask: Tensor, visual: tuple[int, int]) -> Tensor:
        """The mask, with the gate's bias on visual keys; queries after and before RoPE."""
        if self.gate is None:
            return mask
        (k0, _, _), (start, end) = cache, visual
        return mask + F.pad(self.gate(q0, k0[:, :, start:end]), (start, k0.shape[2] - end)).to(mask.dtype)

    def _seen(
        self, q: Tensor, q0: Tensor, cache: Cache, mask: Tensor, visual: tuple[int, int], target: Tensor
    ) -> Tensor:
        """Logarithm of the share that goes to the target and the tokens left and right of it, (B, heads, T)."""
        scores = self._scores(q, q0, cache, mask, visual)
        start, end = visual
        near = (target[..., None] + torch.arange(start - 1, start + 2))[:, None]
        outside = (near < start) | (near >= end)
        near = near.clamp(start, end - 1).expand(-1, self.c.heads, -1, -1)
        there = torch.gather(scores, 3, near).float().masked_fill(outside, float("-inf"))
        share: Tensor = there.logsumexp(3) - scores.float().logsumexp(3)
        return share

    def _scores(self, q: Tensor, q0: Tensor, cache: Cache, mask: Tensor, visual: tuple[int, int]) -> Tensor:
        """Scores before the softmax, bias and mask included, (B, heads, T, keys)."""
        k = cache[1].repeat_interleave(self.c.heads // self.c.kv_heads, 1)
        return (q * self.c.head_dim**-0.5) @ k.transpose(2, 3) + self._bias(q, q0, cache, mask, visual)


class Decoded(NamedTuple):
    """What the decoder made of packed questions.

    hidden: final states of the questions, (B, T, width); looks: for each watched layer the logarithm of the attention
    that goes to the targets, (B, heads, T); visual: states of the visual tokens behind the asked layer, (B, N, width).
    """

    hidden: Tensor
    looks: list[Tensor]
    visual: Tensor


class LanguageModel(nn.Module):
    """Embedding, decoder blocks, final norm."""

    def __init__(self, c: NanoConfig, block: type[DecoderBlock] = DecoderBlock) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, c.width)
        self.layers = nn.ModuleList(block(c) for _ in range(c.depth))
        self.norm = RMSNorm(c.width)


class Nano(nn.Module):
    """The reader, with the heads of its auxiliary losses.

    `cells` says which characters a visual token holds, `rows` in which line of the page it stands.

    Args:
        c: its shape.
        gate: whether every decoder layer has a pair gate.
        slots: characters that are named for a visual token.
        characters: classes of a character.
        lines: line numbers that are told apart.
        block: what a decoder layer is made of.
    """

    def __init__(
        self,
        c: NanoConfig,
        gate: bool,
        slots: int,
        characters: int,
        lines: int,
        block: type[DecoderBlock] = DecoderBlock,
    ) -> None:
        super().__init__()
        self.c = c
        self.visual = Visual(c)
        self.language_model = LanguageModel(c, block)
        self.cells = nn.Linear(c.width, slots * characters)
        self.rows = nn.Linear(c.width, lines)
        if gate:
            for layer in self.language_model.layers:
                layer.gate = PairGate(c)

    def prefix(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Embeddings of what stands before the questions, the image among it, and their positions.

        Args:
            tokens: visual tokens, (B, N, width).
            grid: rows and columns of visual tokens.

        Returns:
            (B, L, width) and (3, L): time, row and column, as Qwen2.5-VL counts them.
        """
        batch, count, _ = tokens.shape
        embed = self.language_model.embed_tokens
        before = embed(torch.tensor(IMAGE_PREFIX)).to(tokens.dtype)[None].expand(batch, -1, -1)
        after = embed(torch.tensor([VISION_END])).to(tokens.dtype)[None].expand(batch, -1, -1)
        rows, columns = grid
        start = len(IMAGE_PREFIX)
        end = torch.tensor([start + max(rows, columns)])
        first = torch.arange(start)
        y = start + torch.arange(rows).repeat_interleave(columns)
        x = start + torch.arange(columns).repeat(rows)
        t = torch.full((count,), start)
        positions = torch.stack([torch.cat([first, axis, end]) for axis in (t, y, x)])
        return torch.cat([before, tokens, after], 1), positions

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Multimodal rotary tables (B, L, 1, head_dim) of positions (3, B, L)."""
        half = self.c.head_dim // 2
        frequency = self.c.rope_theta ** (-torch.arange(half).float() / half)
        axis = torch.tensor([axis for axis, count in enumerate(self.c.rope_sections) for _ in range(count)])
        angle = positions.float()[axis].permute(1, 2, 0) * frequency
        angle = torch.cat([angle, angle], -1)[:, :, None]
        return angle.cos(), angle.sin()

    def embedded(
        self, tokens: Tensor, grid: tuple[int, int], ids: Tensor, place: Tensor
    ) -> tuple[Tensor, int, Tensor, Tensor]:
        """What enters the decoder: embeddings (B, L, width), how many stand before the questions, and rotary tables.

        Args:
            tokens, grid, ids, place: as of `decode`.
        """
        x, positions = self.prefix(tokens, grid)
        batch, head, _ = x.shape
        x = torch.cat([x, self.language_model.embed_tokens(ids).to(x.dtype)], 1)
        text = place + positions[0, -1] + 1
        full = torch.cat([positions[:, None].expand(3, batch, -1), text[None].expand(3, -1, -1)], -1)
        cos, sin = self.rope(full)
        return x, head, cos.to(x.dtype), sin.to(x.dtype)

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
        """Hidden states of questions that are packed behind one image, each of which sees the image and itself only.

        Args:
            tokens: visual tokens, (B, N, width).
            grid: rows and columns of visual tokens.
            ids: (B, T), tokens of all questions, one behind the other.
            segment: (B, T), the number of a token's question; -1 for padding.
            place: (B, T), a token's place in its question, from 0.
            target: (B, T), the visual token that the layers in `watched` shall look at; -1 where none is known.
            watched: layers whose attention to the targets is wanted.
            tapped: the layer behind which the states of visual tokens are kept.
        """
        x, head, cos, sin = self.embedded(tokens, grid, ids, place)
        batch = len(x)
        count = ids.shape[1]
        same = segment[:, :, None] == segment[:, None, :]
        same &= torch.ones(count, count, dtype=torch.bool).tril()
        own = torch.zeros(batch, 1, count, count, dtype=x.dtype).masked_fill_(~same[:, None], float("-inf"))
        masks = causal(head, x.dtype), F.pad(own, (head, 0))
        visual = (len(IMAGE_PREFIX), len(IMAGE_PREFIX) + tokens.shape[1])
        layers = self.language_model.layers
        looks: list[Tensor] = []
        kept = tokens
        for i, layer in enumerate(layers):
            wanted = target if i in watched else None
            x, _, seen = layer(x, cos, sin, masks, visual, None, i == len(layers) - 1, wanted)
            looks += [] if seen is None else [seen]
            if i == tapped:
                kept = x[:, visual[0] : visual[1]]
        return Decoded(self.language_model.norm(x), looks, kept)

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary scores with the tied embedding."""
        return F.linear(hidden, self.language_model.embed_tokens.weight.to(hidden.dtype))
