"""Checkpoints that mlx-lm and mlx-vlm wrote: weights packed already, convolutions with their channels last.

Nothing is quantized again. How a matrix is packed follows from its shape and that of its scales, since the model says
how wide it is; what config.json says must agree where it names the matrix, and is not needed where it does not (as
mlx-lm reads it). Other packings (GPTQ, AWQ, bitsandbytes, ...) are refused by name, where the weights are packed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from rave_mlx.config import QuantizationConfig
from rave_mlx.convert.quantization_settings import declaration, foreign_method
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError, ModelError

_SETTINGS = ("group_size", "bits", "mode")
_KNOWN = (*_SETTINGS, "quant_method")
_MODES = {(4, 32): "mxfp4", (8, 32): "mxfp8", (4, 16): "nvfp4"}
"""The modes with integer scales by bits and group size."""


@dataclass(frozen=True)
class Declared:
    """What config.json says: for every matrix, and for modules by their path (None: not packed)."""

    base: QuantizationConfig
    modules: Mapping[str, QuantizationConfig | None] = field(default_factory=dict)

    def contradicts(self, path: str, found: QuantizationConfig) -> bool:
        """Whether it says something else about a module, by its path in the checkpoint, than its tensors do."""
        # mlx-lm writes paths without the prefix that a vision-language model puts before its decoder.
        stacked = ".mlp.switch_mlp." if ".mlp.experts." in path else ".experts.switch_glu."
        path = path.replace(".mlp.experts.", stacked).replace(".experts.", stacked)
        for name in (path, path.removeprefix("language_model.")):
            if name in self.modules:
                return self.modules[name] != found
        return False


def declared(source: Source) -> Declared | None:
    """The MLX quantization that a configuration declares; None for a checkpoint without.

    Raises:
        ConfigError: for keys that are not understood.
    """
    key, data = declaration(source.config, source.path)
    if data is None or foreign_method(source.config, source.path) is not None:
        return None
    where = f"{source.path / 'config.json'}: {key}"
    unknown = [n for n, v in data.items() if n not in _KNOWN and not isinstance(v, (Mapping, bool))]
    if unknown:
        raise ConfigError(f"{where} has unknown keys {', '.join(unknown)}")
    base = _setting({name: data[name] for name in _SETTINGS if name in data}, where)
    modules = {n: v for n, v in data.items() if n not in _KNOWN and v is not True}
    return Declared(base, {n: None if v is False else _setting(v, f"{where}.{n}") for n, v in modules.items()})


def refusal(source: Source, method: str) -> ModelError:
    """The error for weights that another package packed."""
    return ModelError(
        f"{source.path}: is quantized by {method!r}, which is not read; convert the 16-bit model "
        "(with --quantize if it should be small), or take its MLX version (mlx-community on the Hub)"
    )


def _setting(data: Mapping[str, Any], where: str) -> QuantizationConfig:
    mode = {"mode": "affine"} if data.get("mode") is None else {}
    return QuantizationConfig.from_dict({**data, **mode}, where)


def packing(path: str, width: int, parts: Mapping[str, mx.array], known: Declared | None) -> QuantizationConfig:
    """How a matrix of `width` columns is packed.

    Args:
        path: the module's path in the checkpoint.
        width: columns of the unpacked matrix.
        parts: its "weight", "scales" and (affine) "biases".
        known: what the configuration declares.

    Raises:
        ModelError: when the tensors are not the parts of one packed matrix, or the configuration says otherwise.
    """
    if known is None:
        raise ModelError(f"{path}.scales: the weights are packed, but config.json has no quantization; get it again")
    weight, scales = parts["weight"], parts["scales"]
    affine = mx.issubdtype(scales.dtype, mx.floating)
    shapes = ", ".join(f"{name} {list(part.shape)} {part.dtype}" for name, part in parts.items())
    wrong = ModelError(f"{path}: these are not the parts of a matrix of {width} columns packed by MLX ({shapes})")
    if weight.ndim not in (2, 3) or scales.ndim != weight.ndim:
        raise wrong
    if weight.dtype != mx.uint32 or affine != ("biases" in parts):
        raise wrong
    if affine and parts["biases"].shape != scales.shape:
        raise wrong
    group, bits = width // max(1, scales.shape[-1]), weight.shape[-1] * 32 // width
    exact = group * scales.shape[-1] == width and bits * width == weight.shape[-1] * 32
    mode = "affine" if affine else _MODES.get((bits, group))
    if weight.shape[:-1] != scales.shape[:-1] or not exact or mode is None:
        raise wrong
    try:
        found = QuantizationConfig.from_dict({"bits": bits, "group_size": group, "mode": mode})
    except ConfigError:
        raise wrong from None
    if known.contradicts(path, found):
        raise ModelError(f"{path}: config.json declares another quantization than its tensors have ({shapes})")
    return found


def channels_first(name: str, tensor: mx.array, shape: tuple[int, ...], source: Source) -> mx.array:
    """A convolution's weights as torch lays them out: (out, in, ...) instead of MLX's (out, ..., in).

    Args:
        name: the tensor, for messages.
        tensor: the weights, in either layout.
        shape: theirs in torch's layout.
        source: the checkpoint.

    Raises:
        ModelError: when the shape fits both layouts and an MLX package wrote the file.
    """
    first, channels, *rest = shape
    last = (first, *rest, channels)
    if tensor.shape == last != shape:
        return tensor.moveaxis(-1, 1)
    if tensor.shape == last and _written_by_mlx(source):
        raise ModelError(
            f"{source.path}: {name} {list(shape)} may have its channels first or last; convert the original model"
        )
    return tensor


def _written_by_mlx(source: Source) -> bool:
    """Whether a weight file is marked as MLX's."""
    for file in source.path.glob("*.safetensors"):
        loaded = mx.load(str(file), return_metadata=True)
        if isinstance(loaded, tuple) and loaded[1].get("format") == "mlx":
            return True
    return False
