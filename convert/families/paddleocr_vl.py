"""PaddleOCR-VL (arXiv 2510.14528): a SigLIP tower at native resolution with rotary positions, and ERNIE 4.5.

Names and settings are those of transformers 5; the published checkpoints have the older ones of the model's own code,
whose configuration is flat. Some of its settings say what this decoder does anyway and are not read.
"""

from __future__ import annotations

from rave_mlx.config import ConnectorConfig, ImageConfig, LMMConfig, TextConfig, VisionConfig
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.qwen import read_axial_theta, read_images, read_multimodal_rope, read_parts
from rave_mlx.convert.families.text import read_gate, read_text, read_tokens, text_origin
from rave_mlx.convert.families.towers import ACTIVATIONS
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

ERAS = (
    ("model.visual.", "model.visual."),
    ("model.projector.", "model.projector."),
    ("model.language_model.", "model.language_model."),
    ("mlp_AR.", "model.projector."),
    ("visual.projector.", "model.projector."),
    ("visual.vision_model.", "model.visual.vision_model."),
    ("visual.layers.", "model.visual.vision_model.encoder.layers."),
    ("visual.", "model.visual.vision_model."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.", "model.language_model."),
)
"""Names of the model's own code, and of mlx-vlm."""
STACKED = (("self_attn.qkv", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),)
"""What mlx-vlm stacks in the tower."""
IGNORED = (r".*packing_position_embedding.*", r".*vision_model\.head\..*")
"""Positions and a pooling head that features do not pass through."""
TEXT: HubConfig = {
    "vocab_size": 103424,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Defaults of the decoder."""
VISION: HubConfig = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "spatial_merge_size": 2,
}
"""Defaults of the tower."""
_PROJECTOR = {"norm": "pre_norm", "fc1": "linear_1", "fc2": "linear_2"}
_TOWER = {
    "patch_embed": "embeddings.patch_embedding",
    "positions": "embeddings.position_embedding",
    "post_norm": "post_layernorm",
}
_LAYER = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attention": "self_attn", "proj": "out_proj"}


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole, text, vision = read_parts(source, TEXT, VISION)
    decoder, tower = _decoder(whole, text), _tower(vision)
    return LMMConfig(
        family="paddleocr_vl",
        text=decoder,
        tokens=read_tokens(source, whole, text, image=whole.get("image_token_id", int, 100295)),
        vision=tower,
        connector=ConnectorConfig(
            tower.hidden_size * tower.merge_size**2, decoder.hidden_size, norm_eps=1e-5, norm="layer"
        ),
        image=_images(source, tower),
        gate=read_gate(whole, source.config),
    )


def _decoder(whole: Keys, text: Keys) -> TextConfig:
    """The decoder. As in transformers, either section may tie the embeddings, and a flat one counts as unsaid: then
    the weights tell."""
    flat = text.where == whole.where
    tied = flat or whole.get("tie_word_embeddings", bool, True) or text.get("tie_word_embeddings", bool, True)
    bias = text.get("use_bias", bool, False)
    for name in ("sliding_window", "layer_types"):
        text.require(name, None)
    rope = read_multimodal_rope(text, (16, 24, 24), interleaved=False, default_theta=500000.0)
    return read_text(
        text,
        whole,
        "paddleocr_vl",
        rope=rope,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        tie_embeddings=tied,
    )


def _tower(vision: Keys) -> VisionConfig:
    """The tower."""
    vision.require("num_channels", 3)
    side = vision.need("image_size", int) // max(1, vision.need("patch_size", int))
    if side < 1:
        raise ConfigError(f"{vision.where}: image_size is smaller than patch_size; the tower has no positions")
    return VisionConfig(
        depth=vision.need("num_hidden_layers", int),
        hidden_size=vision.need("hidden_size", int),
        intermediate_size=vision.need("intermediate_size", int),
        num_heads=vision.need("num_attention_heads", int),
        patch_size=vision.need("patch_size", int),
        temporal_patch_size=1,
        merge_size=vision.need("spatial_merge_size", int),
        rope_theta=read_axial_theta(vision),
        norm_eps=vision.need("layer_norm_eps", float),
        norm="layer",
        mlp="plain",
        activation=vision.choice("hidden_act", ACTIVATIONS, None),
        patch_bias=True,
        fused_qkv=False,
        post_norm=True,
        position_side=side,
        position_fit="edges",
    )


def _images(source: Source, tower: VisionConfig) -> ImageConfig:
    """Pre-processing of PaddleOCRVLImageProcessor."""
    return read_images(source, tower, (384 * 384, 1536 * 1536), grow_sides="rounded")


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    part, _, path = canonical.partition(".")
    if part == "decoder":
        return text_origin(canonical, config, hub)
    if part == "connector":
        module, _, leaf = path.rpartition(".")
        return Origin(f"model.projector.{_PROJECTOR[module]}.{leaf}")
    vision, stem = config.vision, "model.visual.vision_model."
    assert isinstance(vision, VisionConfig)
    first, *rest = path.split(".")
    if first == "layers":
        index, *parts = rest
        return Origin(f"{stem}encoder.layers.{index}.{'.'.join(_LAYER.get(part, part) for part in parts)}")
    leaf = rest[0] if rest else "weight"
    shape = (vision.hidden_size, vision.channels, vision.patch_size, vision.patch_size)
    return Origin(f"{stem}{_TOWER[first]}.{leaf}", shape if path == "patch_embed.weight" else None)


FAMILY = Family(config, origin, ERAS, IGNORED, stacked=STACKED)
