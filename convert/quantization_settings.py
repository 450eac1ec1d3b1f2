"""What a checkpoint's configuration says about quantization, and whether it was MLX that packed the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rave_mlx.errors import ConfigError

_KEYS = ("quantization", "quantization_config", "compression_config")
_MODELOPT = "hf_quant_config.json"
"""Where NVIDIA's ModelOpt says how it quantized."""


def declaration(config: Mapping[str, Any], folder: Path) -> tuple[str, Mapping[str, Any] | None]:
    """The key of a config.json, or the file beside it, that speaks of quantization, and what it says; None for nothing.

    Raises:
        ConfigError: when that is not an object.
    """
    text = config.get("text_config")
    inner: Mapping[str, Any] = text if isinstance(text, Mapping) else {}
    for key in _KEYS:
        for section in (config, inner):
            data = section.get(key)
            if data and not isinstance(data, Mapping):
                raise ConfigError(f"{folder / 'config.json'}: {key} should be an object, found {data!r}")
            if data:
                return key, data
    return (_MODELOPT, {}) if (folder / _MODELOPT).is_file() else ("", None)


def foreign_method(config: Mapping[str, Any], folder: Path) -> str | None:
    """The quantization method of another package that is named there ("gptq", ...); None for none, or MLX's own.

    It may be a leftover: training in few bits leaves it in the configuration of the merged model.

    Raises:
        ConfigError: when what speaks of quantization is not an object.
    """
    key, data = declaration(config, folder)
    if data is None:
        return None
    method = data.get("quant_method") or data.get("quant_algo")
    if method == "mlx" or (method is None and {"group_size", "bits"} <= data.keys()):
        return None
    return str(method or key)
