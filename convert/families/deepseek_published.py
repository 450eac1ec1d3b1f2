"""DeepSeek-OCR 2 as it was published, and as mlx-vlm writes it: its config.json in the keys of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

KINDS = ("deepseek_vl_v2", "deepseekocr_2")
"""Its model types; the first is that of other models, too."""
ARCHITECTURE = "DeepseekOCR2ForCausalLM"
_ENCODER: dict[str, Any] = {
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
}
"""Of the encoder, which its code has and its configuration leaves out."""
_SAM = {"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}


def describes(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one of DeepSeek-OCR 2 in other keys than those of transformers."""
    kind, classes = config.get("model_type"), config.get("architectures")
    named = isinstance(classes, list) and ARCHITECTURE in classes
    return kind == KINDS[1] or (kind == KINDS[0] and named)


def modern_config(source: Source) -> Mapping[str, Any]:
    """The configuration of a checkpoint as transformers writes it.

    Raises:
        ConfigError: for parts that are missing, malformed, or other than the published model has them.
    """
    if not describes(source.config):
        return source.config
    whole = Keys(source.config, str(source.path / "config.json"))
    for name, value in (("tile_tag", "2D"), ("global_view_pos", "head")):
        whole.require(name, value)
    projector, text = whole.section("projector_config"), _text(source.config, whole)
    projector.require("projector_type", "linear")
    widths = whole.section("vision_config").section("width")
    sam, encoder = widths.section("sam_vit_b"), widths.section("qwen2-0-5b")
    hidden = encoder.get("dim", int, 896)
    projector.require("input_dim", hidden)
    projector.require("n_embed", text.get("hidden_size"))
    # The second of its downsample_channels is that of DeepSeek-OCR; the code has the encoder's width in its place.
    middle = sam.get("downsample_channels", list, [512])[:1]
    tower: dict[str, Any] = {ours: n for key, ours in _SAM.items() if (n := sam.get(key, int, None)) is not None}
    tower["global_attn_indexes"] = sam.get("global_attn_indexes", list, [2, 5, 8, 11])
    return {
        **source.config,
        "image_token_id": whole.get("image_token_index", int, whole.get("image_token_id", int, None)),
        "text_config": text,
        "vision_config": {
            "sam_config": {**tower, "downsample_channels": [*middle, hidden]},
            "encoder_config": {**_ENCODER, "hidden_size": hidden},
        },
    }


def _text(config: Mapping[str, Any], whole: Keys) -> dict[str, Any]:
    """The decoder's section, which mlx-vlm calls by another name."""
    section = config.get("language_config", config.get("text_config"))
    if not isinstance(section, Mapping):
        raise ConfigError(f"{whole.where}: language_config is missing")
    return {name: value for name, value in section.items() if name != "model_type"}
