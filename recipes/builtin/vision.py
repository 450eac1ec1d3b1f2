"""The vision tower of the reader, equal to that of Qwen2.5-VL on grey images, batched over pages of one size."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.builtin.layers import CELL, WINDOW, NanoConfig, RMSNorm, SwiGLU, attend, rotate


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
        """One block over windows, or over whole pages.

        Args:
            x: (N, L, D); N windows or pages.
            cos, sin: (N or 1, L, 1, head_dim), rotary tables.
            bias: (N, 1, 1, L), -inf on patches outside the page; None where there are none.
        """
        n, length, width = x.shape
        qkv = self.attn.qkv(self.norm1(x)).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.unbind(2)
        q, k, v = rotate(q, cos, sin).transpose(1, 2), rotate(k, cos, sin).transpose(1, 2), v.transpose(1, 2)
        whole = length > WINDOW * WINDOW * 4  # more patches than a window has
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
    """The grid of a page, padded to whole windows, on torch's default device; kept, since pages have few sizes.

    Args:
        height: in pixels, a multiple of 16.
        width: in pixels, a multiple of 16.
        head_dim: of the tower's attention.
        theta: base of the rotary frequencies.
    """
    return _make_grid(height, width, head_dim, theta, torch.get_default_device())


@functools.lru_cache(maxsize=256)
def _make_grid(height: int, width: int, head_dim: int, theta: float, device: torch.device) -> Grid:
    # What is inside decides shapes, so it is computed where looking at it costs nothing.
    with torch.device("cpu"):
        grid = _grid(height, width, head_dim, theta)
    valid, bias = (None if part is None else part.to(device) for part in (grid.valid, grid.bias))
    return Grid(grid.cos.to(device), grid.sin.to(device), valid, bias, grid.shape)


def _grid(height: int, width: int, head_dim: int, theta: float) -> Grid:
    rows, columns = -(-height // (CELL * WINDOW)), -(-width // (CELL * WINDOW))
    y = torch.arange(rows * 8)[:, None].expand(rows * 8, columns * 8)
    x = torch.arange(columns * 8)[None].expand(rows * 8, columns * 8)

    def order(p: Tensor) -> Tensor:
        """Rows of patches to window order: windows, their cells, the patches of a cell."""
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


def pixels(image: Tensor) -> Tensor:
    """Grey bytes to the network's range [-1, 1]."""
    return image.float() / 127.5 - 1.0
