"""More decoder layers for a trained reader, without a change of what it computes.

The new layers are copies of the one below them whose two output projections are zero: they add nothing until they have
learned to (as in LLaMA Pro, arXiv 2401.02415).
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from recipes.builtin.layers import NanoConfig

BELOW = 1
"""New layers stand behind this one: aggregation of words happens below, pointing and reading above."""
_LAYER = re.compile(r"(language_model\.layers\.)(\d+)(\..*)")
_SILENT = (".self_attn.o_proj.weight", ".mlp.down_proj.weight")


def deepen(state: dict[str, Tensor], config: NanoConfig) -> dict[str, Tensor]:
    """A state of a reader with `config.depth` decoder layers, from one with as many or fewer.

    Args:
        state: tensors of a `Nano` by name.
        config: the shape to reach.
    """
    found = {int(match[2]) for name in state if (match := _LAYER.fullmatch(name))}
    more = config.depth - len(found)
    out = {}
    for name, tensor in state.items():
        match = _LAYER.fullmatch(name)
        if match is None:
            out[name] = tensor
            continue
        head, index, tail = match[1], int(match[2]), match[3]
        out[f"{head}{index + (more if index > BELOW else 0)}{tail}"] = tensor
        if index == BELOW:
            copy = torch.zeros_like(tensor) if tail in _SILENT else tensor
            out |= {f"{head}{BELOW + 1 + i}{tail}": copy.clone() for i in range(more)}
    return out
