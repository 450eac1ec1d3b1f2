"""The built-in reader as a compact torch module: a small Qwen2.5-VL (arXiv 2502.13923) with pair gates.

Equal to `transformers.Qwen2_5_VLForConditionalGeneration` up to rounding (tests/parity/test_recipe.py), but batched,
on grey images (the patch filter of a grey image is the sum over colours and time), and with several questions
packed behind one image: a block mask lets each segment see the image and itself only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rave_mlx.nano.recipe.tokens import IMAGE_PREFIX, VISION_END, VOCABULARY

CELL = 16
"""Side in pixels of the square behind one visual token."""
WINDOW = 4
"""Side in cells of an attention window of the tower."""


@dataclass(frozen=True)
class NanoConfig:
    """Shape of the reader (5.5 M parameters as it stands)."""

    vision_width: int = 192
    vision_depth: int = 4
    vision_heads: int = 3
    vision_mlp: int = 512
    full_attention_layers: tuple[int, ...] = (2,)
    width: int = 256
    depth: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    mlp: int = 640
    rope_theta: float = 20.0
    rope_sections: tuple[int, int, int] = (4, 12, 16)
    gate_rank: int = 14
    gate_limit: float = 4.0


class RMSNorm(nn.Module):
    """x / rms(x) * weight, statistics in fp32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.to(x.dtype) * normalise(x)


def normalise(x: Tensor) -> Tensor:
    """x / rms(x) over the last axis, computed in fp32, in the dtype of x."""
    h = x.float()
    return (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, halves convention."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d) + bias) v for (B, heads, L, d); plain products beat fused SDPA on CPUs at this size."""
    b, h, n, d = q.shape
    m = k.shape[2]
    scores = torch.bmm((q * d**-0.5).reshape(b * h, n, d), k.reshape(b * h, m, d).transpose(1, 2))
    if bias is not None:
        scores = (scores.view(b, h, n, m) + bias).view(b * h, n, m)
    return torch.bmm(scores.softmax(-1, dtype=scores.dtype), v.reshape(b * h, m, d)).view(b, h, n, d)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=bias)
        self.up_proj = nn.Linear(width, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class VisionAttention(nn.Module):
    """Projections of a tower block."""

    def __init__(self, c: NanoConfig) -> None:
        super().__init__()
        self.qkv = nn.Linear(c.vision_width, 3 * c.vision_width)
        self.proj = nn.Linear(c.vision_width, c.vision_width)


class VisionBlock(nn.Module):
    """Attention and MLP of the tower, pre-norm."""

    def __init__(self, c: NanoConfig) -> None:
        super().__init__()
        self.heads = c.vision_heads
        self.norm1 = RMSNorm(c.vision_width)
        self.norm2 = RMSNorm(c.vision_width)
        self.attn = VisionAttention(c)
        self.mlp = SwiGLU(c.vision_width, c.vision_mlp, True)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor | None) -> Tensor:
        """x: (N, L, D); cos, sin: (N or 1, L, 1, head_dim); bias: (N, 1, 1, L) or None."""
        n, length, width = x.shape
        qkv = self.attn.qkv(self.norm1(x)).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.unbind(2)
        q, k, v = rotate(q, cos, sin).transpose(1, 2), rotate(k, cos, sin).transpose(1, 2), v.transpose(1, 2)
        whole = length > WINDOW * WINDOW * 4
        out = F.scaled_dot_product_attention(q, k, v) if whole else attend(q, k, v, bias)
        x = x + self.attn.proj(out.transpose(1, 2).reshape(n, length, width))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class PatchEmbed(nn.Module):
    """8 x 8 grey pixels to one vector."""

    def __init__(self, c: NanoConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(64, c.vision_width, bias=False)


class Merger(nn.Module):
    """2 x 2 patches to one visual token."""

    def __init__(self, c: NanoConfig) -> None:
        super().__init__()
        wide = 4 * c.vision_width
        self.ln_q = RMSNorm(c.vision_width)
        self.mlp = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, c.width))

    def forward(self, x: Tensor) -> Tensor:
        b, length, width = x.shape
        out: Tensor = self.mlp(self.ln_q(x).reshape(b, length // 4, 4 * width))
        return out


@dataclass(frozen=True)
class Grid:
    """Where the patches of a padded page are, in window order: windows x cells x patches of a cell.

    `cos`, `sin`: (P, 1, head_dim) for the P padded patches; `valid`: flat indices of patches inside the page;
    `bias`: (windows, 1, 1, 64) with -inf on patches outside, or None when the page fills its windows.
    """

    cos: Tensor
    sin: Tensor
    valid: Tensor | None
    bias: Tensor | None
    shape: tuple[int, int]


def make_grid(height: int, width: int, head_dim: int, theta: float = 10000.0) -> Grid:
    """The grid of a page of height x width pixels (multiples of 16)."""
    rows, columns = -(-height // (CELL * WINDOW)), -(-width // (CELL * WINDOW))
    y = torch.arange(rows * 8)[:, None].expand(rows * 8, columns * 8)
    x = torch.arange(columns * 8)[None].expand(rows * 8, columns * 8)

    def order(p: Tensor) -> Tensor:
        return p.reshape(rows, 4, 2, columns, 4, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1)

    y, x = order(y), order(x)
    frequency = theta ** (-torch.arange(0, head_dim // 2, 2).float() / (head_dim // 2))
    angle = torch.cat([y[:, None] * frequency, x[:, None] * frequency], -1)
    angle = torch.cat([angle, angle], -1)[:, None]
    inside = (y < height // 8) & (x < width // 8)
    valid = bias = None
    if not bool(inside.all()):
        valid = inside.nonzero()[:, 0]
        bias = torch.zeros(inside.shape).masked_fill(~inside, float("-inf")).view(rows * columns, 1, 1, 64)
    return Grid(angle.cos(), angle.sin(), valid, bias, (rows, columns))


class Visual(nn.Module):
    """The tower: windows of 64 x 64 pixels, whole-page attention in some layers, 2 x 2 merger."""

    def __init__(self, c: NanoConfig) -> None:
        super().__init__()
        self.c = c
        self.patch_embed = PatchEmbed(c)
        self.blocks = nn.ModuleList(VisionBlock(c) for _ in range(c.vision_depth))
        self.merger = Merger(c)

    def forward(self, image: Tensor, grid: Grid) -> Tensor:
        """Grey pixels in [-1, 1], (B, H, W), to visual tokens in reading order, (B, H/16 * W/16, width)."""
        batch, height, width = image.shape
        rows, columns = grid.shape
        image = F.pad(image, (0, columns * 64 - width, 0, rows * 64 - height))
        x = image.reshape(batch, rows, 4, 2, 8, columns, 4, 2, 8).permute(0, 1, 5, 2, 6, 3, 7, 4, 8)
        x = self.patch_embed.proj(x.reshape(batch, rows * columns * 64, 64))
        cos, sin = grid.cos.to(x.dtype), grid.sin.to(x.dtype)
        windows = rows * columns
        cos_w = cos.view(windows, 64, 1, -1).repeat(batch, 1, 1, 1)
        sin_w = sin.view(windows, 64, 1, -1).repeat(batch, 1, 1, 1)
        bias = None if grid.bias is None else grid.bias.to(x.dtype).repeat(batch, 1, 1, 1)
        for i, block in enumerate(self.blocks):
            if i not in self.c.full_attention_layers:
                x = block(x.view(batch * windows, 64, -1), cos_w, sin_w, bias).view(batch, windows * 64, -1)
            elif grid.valid is None:
                x = block(x, cos, sin, None)
            else:
                part = block(x[:, grid.valid], cos[grid.valid], sin[grid.valid], None)
                x = torch.zeros_like(x).index_copy(1, grid.valid, part)
        x = self.merger(x).view(batch, rows, columns, 4, 4, -1).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, rows * 4, columns * 4, -1)[:, : height // CELL, : width // CELL]
        out: Tensor = x.reshape(batch, (height // CELL) * (width // CELL), -1)
        return out


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
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, visual: tuple[int, int], past: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        """x: (B, L, D); cos, sin: (B, L, 1, d); mask: (B, 1, L, keys) additive; `visual`: range of visual keys."""
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
        if self.gate is not None:
            start, end = visual
            mask = mask + F.pad(self.gate(q0, k0[:, :, start:end]), (start, k0.shape[2] - end)).to(mask.dtype)
        groups = c.heads // c.kv_heads
        out = attend(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), mask)
        x = x + a.o_proj(out.transpose(1, 2).reshape(b, length, -1))
        return x + self.mlp(self.post_attention_layernorm(x)), (k0, k, v)


class LanguageModel(nn.Module):
    """Embedding, decoder blocks, final norm."""

    def __init__(self, c: NanoConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, c.width)
        self.layers = nn.ModuleList(DecoderBlock(c) for _ in range(c.depth))
        self.norm = RMSNorm(c.width)


class Nano(nn.Module):
    """The reader. `cells` is the auxiliary head of cell supervision: which characters a visual token holds."""

    def __init__(self, c: NanoConfig, gate: bool, slots: int, characters: int) -> None:
        super().__init__()
        self.c = c
        self.visual = Visual(c)
        self.language_model = LanguageModel(c)
        self.cells = nn.Linear(c.width, slots * characters)
        if gate:
            for layer in self.language_model.layers:
                layer.gate = PairGate(c)

    def prefix(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Embeddings of IMAGE_PREFIX, the image and VISION_END, and their positions (3, L)."""
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
        axis = torch.repeat_interleave(torch.arange(3), torch.tensor(self.c.rope_sections))
        angle = positions.float()[axis].permute(1, 2, 0) * frequency
        angle = torch.cat([angle, angle], -1)[:, :, None]
        return angle.cos(), angle.sin()

    def decode(self, tokens: Tensor, grid: tuple[int, int], ids: Tensor, segment: Tensor, place: Tensor) -> Tensor:
        """Final hidden states of packed questions, (B, T, width).

        tokens: visual tokens (B, N, width); ids, segment, place: (B, T), token, its question (-1: padding) and its
        place in the question.
        """
        x, positions = self.prefix(tokens, grid)
        batch, head, _ = x.shape
        x = torch.cat([x, self.language_model.embed_tokens(ids).to(x.dtype)], 1)
        text = place + positions[0, -1] + 1
        full = torch.cat([positions[:, None].expand(3, batch, -1), text[None].expand(3, -1, -1)], -1)
        cos, sin = self.rope(full)
        length = x.shape[1]
        owner = torch.cat([torch.full((batch, head), -2), segment], 1)
        seen = (owner[:, None, :] == -2) | (owner[:, :, None] == owner[:, None, :])
        seen &= torch.ones(length, length, dtype=torch.bool).tril()
        mask = torch.zeros(batch, 1, length, length, dtype=x.dtype).masked_fill_(~seen[:, None], float("-inf"))
        start = len(IMAGE_PREFIX)
        for layer in self.language_model.layers:
            x, _ = layer(x, cos.to(x.dtype), sin.to(x.dtype), mask, (start, start + tokens.shape[1]))
        out: Tensor = self.language_model.norm(x[:, head:])
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary scores with the tied embedding."""
        return F.linear(hidden, self.language_model.embed_tokens.weight.to(hidden.dtype))


def pixels(image: Tensor) -> Tensor:
    """Grey bytes to the network's range [-1, 1]."""
    return image.float() / 127.5 - 1.0
