"""Attention with a pair gate: `attend` is the only door from a layer to a softmax (see `dispatch`)."""

from __future__ import annotations

from rave_mlx.attention.dispatch import Path, attend, attend_packed, attend_with_mass, choose_path
from rave_mlx.attention.gate import GateTerms, PairGate
from rave_mlx.attention.kernels.fused import Packed
from rave_mlx.attention.masks import Mask, decoder_mask
from rave_mlx.attention.packed import expanded, group_size, pack

__all__ = [
    "GateTerms",
    "Mask",
    "Packed",
    "PairGate",
    "Path",
    "attend",
    "attend_packed",
    "attend_with_mass",
    "choose_path",
    "decoder_mask",
    "expanded",
    "group_size",
    "pack",
]
