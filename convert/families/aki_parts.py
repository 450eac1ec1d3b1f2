"""What AKI's config.json does not say: it names the two models that AKI is made of by their paths only.

Sizes and factors as in the config.json of microsoft/Phi-3.5-mini-instruct and google/siglip-so400m-patch14-384.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rave_mlx.convert.families.base import HubConfig
from rave_mlx.errors import ConfigError

_PHI_3_5_MINI: dict[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "bos_token_id": 1,
    "sliding_window": 262144,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [
            1.0, 1.0199999809265137, 1.0299999713897705, 1.0299999713897705, *[1.0499999523162842] * 5,
            1.0699999332427979, 1.0999999046325684, 1.1099998950958252, 1.1599998474121094, 1.1599998474121094,
            1.1699998378753662, 1.2899998426437378, 1.339999794960022, 1.679999828338623, 1.7899998426437378,
            1.8199998140335083, 1.8499997854232788, 1.8799997568130493, 1.9099997282028198, 1.9399996995925903,
            1.9899996519088745, *[2.0199997425079346] * 6, *[2.0299997329711914] * 9, 2.0799996852874756,
            2.0899996757507324, 2.189999580383301, 2.2199995517730713, 2.5899994373321533, 2.729999542236328,
            2.749999523162842, 2.8399994373321533,
        ],
        "long_factor": [
            1.0800000429153442, 1.1100000143051147, 1.1399999856948853, 1.340000033378601, 1.5899999141693115,
            1.600000023841858, 1.6200000047683716, 2.620000123977661, 3.2300000190734863, 3.2300000190734863,
            4.789999961853027, 7.400000095367432, 7.700000286102295, 9.09000015258789, 12.199999809265137,
            17.670000076293945, 24.46000099182129, 28.57000160217285, 30.420001983642578, 30.840002059936523,
            32.590003967285156, 32.93000411987305, 42.320003509521484, 44.96000289916992, 50.340003967285156,
            50.45000457763672, 57.55000305175781, 57.93000411987305, 58.21000289916992, 60.1400032043457,
            62.61000442504883, 62.62000274658203, 62.71000289916992, 63.1400032043457, 63.1400032043457,
            63.77000427246094, 63.93000411987305, 63.96000289916992, 63.970001220703125, 64.02999877929688,
            64.06999969482422, 64.08000183105469, 64.12000274658203, 64.41000366210938, 64.4800033569336,
            64.51000213623047, 64.52999877929688, 64.83999633789062,
        ],
    },
}  # fmt: skip
_SIGLIP_SO400M: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
_KNOWN = {
    "lang_model_path": ("text_config", {"phi-3.5-mini-instruct": _PHI_3_5_MINI}),
    "vision_encoder_path": ("vision_config", {"siglip-so400m-patch14-384": _SIGLIP_SO400M}),
}
"""Configurations by the last part of the path that names a model, and the section that goes before them."""


def describes(config: HubConfig) -> bool:
    """Whether a config.json is AKI's: it may lack a `model_type`."""
    return config.get("model_type") == "aki" or set(_KNOWN) <= set(config)


def part(hub: HubConfig, key: str, where: str) -> Mapping[str, Any]:
    """Configuration of one of the two models: the section of that name, else what is known by its path.

    Args:
        hub: the checkpoint's config.json.
        key: that of the path which names the model.
        where: the file, for errors.

    Raises:
        ConfigError: for a model that is not known by its path and has no section of its own.
    """
    section, known = _KNOWN[key]
    if isinstance(hub.get(section), Mapping):
        return dict(hub[section])
    name = str(hub.get(key, "")).rstrip("/").rpartition("/")[2].lower()
    if name not in known:
        raise ConfigError(
            f"{where}: {key} {hub.get(key)!r} is not one of {', '.join(known)}; add its configuration as {section!r}"
        )
    return known[name]
