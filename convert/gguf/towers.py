"""The tensors of llama.cpp's vision towers under transformers' names. They are expanded: towers are small.

https://github.com/ggml-org/llama.cpp: gguf-py/gguf/tensor_mapping.py, tools/mtmd/clip-impl.h
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from rave_mlx.convert.gguf.blocks import expand
from rave_mlx.convert.gguf.container import Stored
from rave_mlx.errors import ModelError

_BLOCK = re.compile(r"v\.blk\.(\d+)\.(\w+)\.(weight|bias)")
_CLIP = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.out_proj",
    "ln1": "layer_norm1",
    "ln2": "layer_norm2",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
_CLIP_TOP = {
    "v.class_embd": "embeddings.class_embedding",
    "v.patch_embd.weight": "embeddings.patch_embedding.weight",
    "v.patch_embd.bias": "embeddings.patch_embedding.bias",
    "v.position_embd.weight": "embeddings.position_embedding.weight",
    "v.pre_ln.weight": "pre_layrnorm.weight",
    "v.pre_ln.bias": "pre_layrnorm.bias",
    "v.post_ln.weight": "post_layernorm.weight",
    "v.post_ln.bias": "post_layernorm.bias",
}
_INTERN = {
    "attn_q": "attention.q_proj",
    "attn_k": "attention.k_proj",
    "attn_v": "attention.v_proj",
    "attn_q_norm": "attention.q_norm",
    "attn_k_norm": "attention.k_norm",
    "attn_out": "attention.projection_layer",
    "ln1": "layernorm_before",
    "ln2": "layernorm_after",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
_INTERN_TOP = {
    "v.class_embd": "embeddings.cls_token",
    "v.position_embd.weight": "embeddings.position_embeddings",
    "v.position_embd": "embeddings.position_embeddings",
    "v.patch_embd.weight": "embeddings.patch_embeddings.projection.weight",
    "v.patch_embd.bias": "embeddings.patch_embeddings.projection.bias",
    "v.post_ln.weight": "layernorm.weight",
    "v.post_ln.bias": "layernorm.bias",
}
_INTERN_SCALES = {"ls1": "lambda_1", "ls2": "lambda_2"}
_INTERN_PROJECTOR = {"mm.model.mlp.0": "layer_norm", "mm.model.mlp.1": "linear_1", "mm.model.mlp.3": "linear_2"}
_QWEN = {
    "attn_out": "attn.proj",
    "ln1": "norm1",
    "ln2": "norm2",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
_QWEN_GATED = _QWEN | {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_QWEN_MERGER = {"v.post_ln": "ln_q", "mm.0": "mlp.0", "mm.2": "mlp.2"}
_SWAPPED = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}


class Tower:
    """The tensors of a file; each family takes all of them, and what it leaves is refused by name."""

    def __init__(self, path: Path, stored: Mapping[str, Stored]):
        self._path = path
        first, second = (stored.get(f"v.blk.0.ffn_{part}.weight") for part in ("up", "down"))
        if first is None or second is None:
            raise ModelError(f"{path}: v.blk.0.ffn_up.weight or ffn_down.weight is missing; download it again")
        # Older converters called the first matrix of the MLP ffn_down (llama.cpp's `is_ffn_swapped`).
        self._swapped = first.shape[0] < first.shape[1]
        self.inner = max(first.shape[0], second.shape[0])
        self._stored = {self._unswapped(name): tensor for name, tensor in stored.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def llava(self, width: int) -> dict[str, mx.array]:
        """LLaVA's tower, and its projector mm.0, mm.2."""
        stem = "model.vision_tower."
        found = self._clip(stem)
        for name, short in (("mm.0", "linear_1"), ("mm.2", "linear_2")):
            found |= self._pair(name, f"model.multi_modal_projector.{short}")
        # The features are taken before this norm, so that files leave it out.
        for leaf, value in (("weight", 1.0), ("bias", 0.0)):
            found.setdefault(f"{stem}post_layernorm.{leaf}", mx.full((width,), value))
        return self._all(found)

    def idefics3(self) -> dict[str, mx.array]:
        """SigLIP's tower, and the connector mm.model.fc."""
        connector = self._take("mm.model.fc.weight")
        return self._all(
            self._clip("model.vision_model.") | {"model.connector.modality_projection.proj.weight": connector}
        )

    def internvl(self) -> dict[str, mx.array]:
        """InternViT, and its projector."""
        stem = "model.vision_tower."
        found = {stem + long: self._take(name) for name, long in _INTERN_TOP.items() if name in self}
        for name, (index, part, leaf) in self._blocks().items():
            if part in _INTERN_SCALES:
                found[f"{stem}encoder.layer.{index}.{_INTERN_SCALES[part]}"] = self._take(name)
            elif part in _INTERN:
                found[f"{stem}encoder.layer.{index}.{_INTERN[part]}.{leaf}"] = self._take(name)
        for name, long in _INTERN_PROJECTOR.items():
            found |= self._pair(name, f"model.multi_modal_projector.{long}")
        for name in ("cls_token", "position_embeddings"):
            tensor = found.get(f"{stem}embeddings.{name}")
            if tensor is not None:
                found[f"{stem}embeddings.{name}"] = tensor.reshape(1, -1, tensor.shape[-1])
        return self._all(found)

    def qwen(self, depth: int) -> dict[str, mx.array]:
        """The towers of Qwen2-VL and Qwen2.5-VL: queries, keys and values in one matrix, frames in one patch."""
        stem = "model.visual."
        names = _QWEN_GATED if "v.blk.0.ffn_gate.weight" in self else _QWEN
        found = {
            f"{stem}blocks.{index}.{names[part]}.{leaf}": self._take(name)
            for name, (index, part, leaf) in self._blocks().items()
            if part in names
        }
        for index in range(depth):
            for leaf in ("weight", "bias"):
                pieces = [self._take(f"v.blk.{index}.attn_{part}.{leaf}") for part in "qkv"]
                found[f"{stem}blocks.{index}.attn.qkv.{leaf}"] = mx.concatenate(pieces)
        frames = [self._take(f"v.patch_embd.weight{number}") for number in ("", ".1")]
        found[f"{stem}patch_embed.proj.weight"] = mx.stack(frames, axis=2)
        for name, long in _QWEN_MERGER.items():
            found |= self._pair(name, f"{stem}merger.{long}")
        return self._all(found)

    def _clip(self, stem: str) -> dict[str, mx.array]:
        found = {stem + long: self._take(name) for name, long in _CLIP_TOP.items() if name in self}
        for name, (index, part, leaf) in self._blocks().items():
            if part in _CLIP:
                found[f"{stem}encoder.layers.{index}.{_CLIP[part]}.{leaf}"] = self._take(name)
        return found

    def _pair(self, name: str, long: str) -> dict[str, mx.array]:
        leaves = [leaf for leaf in ("weight", "bias") if f"{name}.{leaf}" in self]
        return {f"{long}.{leaf}": self._take(f"{name}.{leaf}") for leaf in leaves}

    def _blocks(self) -> dict[str, tuple[str, str, str]]:
        """Tensors of layers: the number, the part and the leaf by name."""
        matches = {name: _BLOCK.fullmatch(name) for name in self._stored}
        return {name: (m[1], m[2], m[3]) for name, m in matches.items() if m is not None}

    def _take(self, name: str) -> mx.array:
        stored = self._stored.pop(name, None)
        if stored is None:
            raise ModelError(f"{self._path}: tensor {name} is missing; download it again")
        try:
            return expand(stored)
        except NotImplementedError:
            raise ModelError(f"{self._path}: tensor {name} has type {stored.kind.name}, which is not read") from None

    def _unswapped(self, name: str) -> str:
        match = _BLOCK.fullmatch(name)
        if not self._swapped or match is None or match[2] not in _SWAPPED:
            return name
        return f"v.blk.{match[1]}.{_SWAPPED[match[2]]}.{match[3]}"

    def _all(self, found: dict[str, mx.array]) -> dict[str, mx.array]:
        if self._stored:
            names = ", ".join(sorted(self._stored)[:10])
            raise ModelError(
                f"{self._path}: tensors that are not known: {names}; convert the original checkpoint instead"
            )
        return found
