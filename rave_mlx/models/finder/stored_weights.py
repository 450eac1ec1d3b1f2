"""Small networks in files: their settings, and their weights, packed into a few bits and read into float32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from rave_mlx.errors import ConfigError, ModelError


def read_settings(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ConfigError: for a file that is missing, broken, or holds something else.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); download or convert the model again") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected a JSON object")
    return data


def read_weights(file: Path, network: nn.Module) -> dict[str, mx.array]:
    """The tensors of a file in float32, unpacked.

    Args:
        file: safetensors, as `packed_weights` gives them.
        network: whose parameters are read; others in the file are left.

    Raises:
        ModelError: for a file that is missing or broken, or does not fit the network.
    """
    try:
        stored = mx.load(str(file))
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{file}: cannot be read ({error}); download or convert the model again") from None
    assert isinstance(stored, dict)
    out = {}
    for name, array in dict(tree_flatten(network.parameters())).items():
        read = _unpacked(stored, name, array.shape[-1])
        if read is None or read.shape != array.shape:
            shape = tuple(array.shape)
            raise ModelError(f"{file}: {name} is missing or has another shape than {shape}; convert the model again")
        out[name] = read.astype(mx.float32)
    return out


def _unpacked(stored: Mapping[str, mx.array], name: str, width: int) -> mx.array | None:
    """A tensor of a file, unpacked where it is packed; None where it is missing or its parts do not fit.

    Args:
        stored: the file's tensors.
        name: of the tensor.
        width: of its rows.
    """
    scales, biases = (stored.get(f"{name}.{part}") for part in ("scales", "biases"))
    packed = stored.get(name)
    if packed is None or scales is None:
        return packed
    if biases is None:
        return None
    try:
        return mx.dequantize(packed, scales, biases, width // scales.shape[-1], 32 * packed.shape[-1] // width)
    except ValueError:
        return None


def packed_weights(weights: Mapping[str, mx.array], bits: Mapping[str, int], group: int = 64) -> dict[str, mx.array]:
    """Weights as they are stored: packed, or in float16.

    Args:
        weights: by name.
        bits: of the weights that are packed, by name; the others are stored in float16.
        group: weights of a row that share a scale and an offset.
    """
    stored: dict[str, mx.array] = {}
    for name, array in weights.items():
        if name in bits:
            packed, scales, biases = mx.quantize(array.astype(mx.float32), group_size=group, bits=bits[name])
            stored[name] = packed
            stored[f"{name}.scales"], stored[f"{name}.biases"] = scales.astype(mx.float16), biases.astype(mx.float16)
        else:
            stored[name] = array.astype(mx.float16)
    return stored
