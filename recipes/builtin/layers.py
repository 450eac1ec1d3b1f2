"""What tower and decoder share: the shape of the reader, norms, rotary positions, attention, MLP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELL = 16
"""Side in pixels of the square behind one visual token."""
WINDOW = 4
"""Side in cells of an attention window of the tower."""


@dataclass(frozen=True)
class NanoConfig:
    """Shape of the reader (6.9 M parameters as it stands).

    `vision_*`: of the tower. `full_attention_layers`: tower layers that see the whole page; the others see windows.
    `rope_sections`: rotary frequencies for time, row and column. `gate_rank`, `gate_limit`: of the pair gates.
    """

    vision_width: int = 192
    vision_depth: int = 4
    vision_heads: int = 3
    vision_mlp: int = 512
    full_attention_layers: tuple[int, ...] = (2, 3)
    width: int = 256
    depth: int = 6
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
    """x / rms(x) over the last axis, in the dtype of x; computed in float32."""
    h = x.float()
    return (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (RoPE), in the convention that pairs a dimension with the one half the width behind it.

    Args:
        x: (..., d).
        cos, sin: tables that broadcast to x.
    """
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d) + bias) v; plain products beat torch's fused attention on CPUs at this size.

    Args:
        q: (B, heads, L, d).
        k, v: (B, heads, N, d).
        bias: added to the scores, mask included; broadcasts to (B, heads, L, N).
    """
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


def causal(length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Additive mask (1, 1, L, L) that hides later keys."""
    return torch.full((length, length), float("-inf"), dtype=dtype).triu(1)[None, None]
