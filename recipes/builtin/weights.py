"""Read and write the reader's weights in the Hugging Face layout of Qwen2.5-VL."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rave_mlx.errors import ModelError
from recipes.builtin.model import Nano

PATCH = "visual.patch_embed.proj.weight"
AUXILIARY = ("cells.", "rows.")
"""Heads that only training needs."""


def load(model: Nano, directory: Path) -> None:
    """Fill the model from `model.safetensors` and, where the model has gates, `gates.safetensors` if present.

    Raises:
        ModelError: for a directory without weights, or weights that do not fit the model.
    """
    path = directory / "model.safetensors"
    if not path.is_file():
        raise ModelError(f"{directory}: no model.safetensors")
    state: dict[str, Tensor] = {}
    for name, value in load_file(path).items():
        short = f"language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name
        state[short] = value.sum((1, 2)).flatten(1) if short == PATCH else value
    gates = directory / "gates.safetensors"
    if gates.is_file() and model.language_model.layers[0].gate is not None:
        state |= {f"language_model.{name}": value for name, value in load_file(gates).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    wrong = unexpected + [n for n in missing if not n.startswith(AUXILIARY) and ".gate." not in n]
    if wrong:
        raise ModelError(f"{path}: does not fit the model: {', '.join(wrong[:4])}")


def save(model: Nano, directory: Path) -> None:
    """Write `model.safetensors` (without the auxiliary heads) and `gates.safetensors`, fp32."""
    state, gates = {}, {}
    for name, parameter in model.state_dict().items():
        value = parameter.detach().float()
        if name.startswith(AUXILIARY):
            continue
        if ".gate." in name:
            gates[name.removeprefix("language_model.")] = value.contiguous()
        elif name == PATCH:
            # One grey filter becomes equal filters of three colours in two frames, whose sum it is.
            state[name] = (value.view(-1, 1, 1, 8, 8) / 6).expand(-1, 3, 2, 8, 8).contiguous()
        else:
            state[name.replace("language_model.", "model.", 1)] = value.contiguous()
    directory.mkdir(parents=True, exist_ok=True)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    if gates:
        save_file(gates, directory / "gates.safetensors")


def count(model: torch.nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())
