"""Weights as the package carries them (a rave directory), to go on from and to write.

A rave directory has no auxiliary heads: a training that starts from one learns them first (`TrainConfig.head_minutes`).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rave_mlx.checkpoint import directory
from rave_mlx.errors import ModelError
from recipes.builtin import weights
from recipes.builtin.deepen import deepen
from recipes.builtin.model import Nano

BUILT_IN = directory.BUILT_IN
"""The directory of the model that the package carries."""
_NAMES = (
    ("visual.patch_embed.proj.", "vision.patch_embed."),
    ("visual.merger.ln_q.", "connector.norm."),
    ("visual.merger.mlp.0.", "connector.fc1."),
    ("visual.merger.mlp.2.", "connector.fc2."),
    ("visual.blocks.", "vision.layers."),
    ("language_model.embed_tokens.", "decoder.embed."),
    ("language_model.layers.", "decoder.layers."),
    ("language_model.norm.", "decoder.norm."),
)
_PARTS = (
    (".attn.", ".attention."),
    (".self_attn.", ".attention."),
    (".input_layernorm.", ".input_norm."),
    (".post_attention_layernorm.", ".post_attention_norm."),
)
_PATCH = "visual.patch_embed.proj.weight"


def packed_name(name: str) -> str:
    """The name that a parameter of `Nano` has in a rave directory."""
    for ours, theirs in _NAMES:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    for ours, theirs in _PARTS:
        name = name.replace(ours, theirs)
    return name.replace(".gate.", ".attention.gate.") if name.startswith("decoder.") else name


def is_packed(folder: Path) -> bool:
    """Whether a directory is one of the package's own form."""
    config = folder / "config.json"
    return config.is_file() and "family" in json.loads(config.read_text(encoding="utf-8"))


def load(model: Nano, folder: Path) -> None:
    """Fill a model from a rave directory; its auxiliary heads stay as they are.

    Raises:
        ModelError: where the weights do not fit the model.
    """
    held = load_file(folder / "model.safetensors")
    state: dict[str, Tensor] = {}
    for name in model.state_dict():
        theirs = packed_name(name)
        if theirs in held:
            value = held[theirs].float()
            state[name] = value.view(value.shape[0], 6, 64).sum(1) if name == _PATCH else value
    missing, _ = model.load_state_dict(state, strict=False)
    wrong = [n for n in missing if not n.startswith(weights.AUXILIARY)]
    if wrong:
        raise ModelError(f"{folder}: does not fit the model: {', '.join(wrong[:4])}")


def load_any(model: Nano, folder: Path) -> None:
    """Fill a model from a training's state, a rave directory, or weights in the Hub's layout.

    Raises:
        ModelError: where there are none, or they do not fit the model.
    """
    if (folder / "state.pt").is_file():
        found = deepen(torch.load(folder / "state.pt", weights_only=True)["model"], model.c)
        fresh = {k: v for k, v in model.state_dict().items() if k.startswith(weights.AUXILIARY)}
        model.load_state_dict(fresh | found)
    elif is_packed(folder):
        load(model, folder)
    else:
        weights.load(model, folder)


def save(model: Nano, like: Path, out: Path) -> None:
    """Write a rave directory: the configuration and tokenizer of `like` with the weights of a model.

    Args:
        model: of the same shape.
        like: a rave directory.
        out: the directory to create.

    Raises:
        ModelError: where `out` exists, or the shapes differ.
    """
    if out.exists():
        raise ModelError(f"{out}: exists already")
    held = load_file(like / "model.safetensors")
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        theirs = packed_name(name)
        if theirs not in held:
            continue
        shown = value.detach().float()
        if name == _PATCH:
            # One grey filter becomes equal filters of three colours in two frames, whose sum it is.
            shown = (shown.view(-1, 1, 64) / 6).expand(-1, 6, 64).flatten(1)
        if shown.shape != held[theirs].shape:
            raise ModelError(f"{like}: {theirs} has another shape than the model")
        tensors[theirs] = shown.to(held[theirs].dtype).contiguous()
    shutil.copytree(like, out, ignore=shutil.ignore_patterns("README.md", "__pycache__"))
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
