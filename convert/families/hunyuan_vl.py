"""HunyuanOCR (arXiv 2511.19575): the dense HunYuan-VL models of transformers.

Published checkpoints have a flat configuration and the names of the model's own code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rave_mlx.config import ImageConfig, LMMConfig, RopeConfig, RowConnectorConfig, TextConfig, VisionConfig
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.qwen import read_images, read_parts
from rave_mlx.convert.families.text import read_gate, read_text, read_tokens, text_origin
from rave_mlx.convert.families.towers import ACTIVATIONS
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.rope import read_rope
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

ERAS = (
    ("model.vision_tower.", "model.vision_tower."),
    ("model.language_model.", "model.language_model."),
    ("model.vit.", "model.vision_tower."),
    ("vit.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.", "model.language_model."),
)
"""Names of the model's own code, and of mlx-vlm."""
_LAYERS = r"(model\.vision_tower\.layers\.\d+)"
RENAMES = (
    (_LAYERS + r"\.mlp\.dense_h_to_4h\.", r"\1.mlp.fc1."),
    (_LAYERS + r"\.mlp\.dense_4h_to_h\.", r"\1.mlp.fc2."),
    (_LAYERS + r"\.input_layernorm\.", r"\1.layer_norm1."),
    (_LAYERS + r"\.post_attention_layernorm\.", r"\1.layer_norm2."),
    (r"model\.vision_tower\.perceive\.proj\.0\.", "model.vision_tower.patch_merger.proj_conv."),
    (r"model\.vision_tower\.perceive\.proj\.2\.", "model.vision_tower.patch_merger.proj_out."),
    (r"model\.vision_tower\.perceive\.", "model.vision_tower.patch_merger."),
)
TEXT: HubConfig = {
    "vocab_size": 290943,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Defaults of the decoder."""
VISION: HubConfig = {
    "hidden_act": "gelu",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "interpolate_mode": "bilinear",
    "rms_norm_eps": 1e-5,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 1,
    "max_image_size": 2048,
}
"""Defaults of the tower."""
_ALIASES = {"head_dim": "attention_head_dim", "vocab_size": "org_vocab_size"}
_NORMS = {"q_norm": "query_layernorm", "k_norm": "key_layernorm"}
_TOWER = {
    "patch_embed": "embeddings.patch_embedding",
    "positions": "embeddings.position_embedding",
}
_LAYER = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attention": "self_attn", "proj": "o_proj"}
_MERGER = {"norm": "before_rms", "join": "proj_conv", "widen": "proj_out", "proj": "mlp", "out_norm": "after_rms"}
_FEATURES = {"newline": "image_newline", "begin": "image_begin", "end": "image_end", "separator": "image_sep"}


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole, text, vision = read_parts(source, TEXT, VISION)
    given = source.config.get("text_config") or source.config
    text = _without_aliases(text, given)
    decoder, tower = _decoder(whole, text, flat=source.config.get("text_config") is None), _tower(vision)
    return LMMConfig(
        family="hunyuan_vl",
        text=decoder,
        tokens=read_tokens(source, whole, text, image=whole.get("image_token_id", int, 120120)),
        vision=tower,
        connector=RowConnectorConfig(
            tower.hidden_size, tower.merge_size, decoder.hidden_size, tower.activation, tower.norm_eps
        ),
        image=_images(source, tower),
        gate=read_gate(whole, source.config),
    )


def _without_aliases(text: Keys, given: Mapping[str, Any]) -> Keys:
    """The decoder's keys under one name each; the older names go before, as in transformers.

    Raises:
        ConfigError: where both are given and differ.
    """
    found = {name: given.get(name) for name in _ALIASES}
    for name, alias in _ALIASES.items():
        if given.get(alias) is None:
            continue
        if found[name] not in (None, given[alias]):
            raise ConfigError(f"{text.where}: {alias} {given[alias]!r} contradicts {name} {found[name]!r}")
        found[name] = given[alias]
    return Keys({**TEXT, **given, **{n: v for n, v in found.items() if v is not None}}, text.where)


def _decoder(whole: Keys, text: Keys, *, flat: bool) -> TextConfig:
    """The decoder. Either section may tie the embeddings; of a flat one, the weights tell."""
    tied = flat or whole.get("tie_word_embeddings", bool, True) or text.get("tie_word_embeddings", bool, True)
    bias = text.get("attention_bias", bool, False)
    for name, value in (("use_qk_norm", True), ("use_cla", False), ("num_experts", 1), ("norm_type", "rms")):
        text.require(name, value)
    head_dim = text.need("head_dim", int)
    return read_text(
        text,
        whole,
        "hunyuan_vl",
        rope=_rope(text, head_dim),
        head_dim=head_dim,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm=True,
        qk_norm_rotated=True,
        tie_embeddings=tied,
    )


def _rope(text: Keys, head_dim: int) -> RopeConfig:
    """Rotary positions with the axes of a page. A fixed `alpha` grows the base, whatever the length is."""
    name = "rope_parameters" if text.get("rope_parameters", dict, None) else "rope_scaling"
    rope = dict(text.get(name, dict, {}))
    where = f"{text.where}.{name}"
    sections = [rope.pop(key) for key in ("mrope_section", "xdrope_section") if rope.get(key) is not None]
    if not sections or any(x != sections[0] for x in sections):
        raise ConfigError(f"{where}: one mrope_section is needed, found {sections or 'none'}")
    kinds = {rope.pop(key, None) for key in ("rope_type", "type")} - {None}
    kinds = {"dynamic" if kind == "xdrope" else kind for kind in kinds}
    alpha = Keys(rope, where).get("alpha", float, None)
    rope.pop("alpha", None)
    theta = Keys(rope, where).get("rope_theta", float, text.get("rope_theta", float, 10000.0))
    if kinds == {"dynamic"} and alpha:
        if head_dim < 4:
            raise ConfigError(f"{text.where}: head_dim {head_dim} is too small for alpha")
        found = RopeConfig(theta * alpha ** (head_dim / (head_dim - 2)))
    else:
        if len(kinds) > 1:
            raise ConfigError(f"{where}: rope_type and type contradict each other ({', '.join(map(str, kinds))})")
        kind = next(iter(kinds), "default")
        stretch = {} if kind == "default" else rope
        plain = {
            "rope_parameters": stretch | {"rope_type": kind, "rope_theta": theta},
            "max_position_embeddings": text.need("max_position_embeddings", int),
        }
        found = read_rope(Keys(plain, text.where), default_theta=theta)
    counts = Keys({"sections": sections[0]}, where).numbers("sections", ())
    if any(not x.is_integer() or x < 0 for x in counts):
        raise ConfigError(f"{where}: mrope_section {sections[0]} should be whole numbers")
    return replace(found, sections=tuple(map(int, counts)), axes="page")


def _tower(vision: Keys) -> VisionConfig:
    """The tower."""
    vision.require("num_channels", 3)
    vision.require("temporal_patch_size", 1)
    width, heads = vision.need("hidden_size", int), vision.need("num_attention_heads", int)
    vision.require("head_dim", width // max(1, heads))
    return VisionConfig(
        depth=vision.need("num_hidden_layers", int),
        hidden_size=width,
        intermediate_size=vision.need("intermediate_size", int),
        num_heads=heads,
        patch_size=vision.need("patch_size", int),
        temporal_patch_size=1,
        merge_size=vision.need("spatial_merge_size", int),
        norm_eps=vision.need("rms_norm_eps", float),
        norm="layer",
        mlp="plain",
        activation=vision.choice("hidden_act", ACTIVATIONS, None),
        patch_bias=True,
        fused_qkv=False,
        rotary=False,
        position_side=_side(vision),
        position_class=True,
        position_fit="edges",
        position_filter=vision.choice("interpolate_mode", {"bilinear": "bilinear", "bicubic": "bicubic"}, None),
    )


def _side(vision: Keys) -> int:
    """Side of the square of learned positions."""
    side: int = vision.need("max_image_size", int) // max(1, vision.need("patch_size", int))
    if side < 1:
        raise ConfigError(f"{vision.where}: max_image_size is smaller than patch_size; the tower has no positions")
    return side


def _images(source: Source, tower: VisionConfig) -> ImageConfig:
    """Pre-processing of HunYuanVLImageProcessor, which resizes by cubic convolution whatever `resample` says."""
    image = read_images(source, tower, (512 * 512, 2048 * 2048), row_tokens=True)
    return replace(image, resample="bicubic")


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    part, _, path = canonical.partition(".")
    if part == "decoder":
        return text_origin(canonical, config, hub, names=_NORMS)
    vision, stem = config.vision, "model.vision_tower."
    assert isinstance(vision, VisionConfig)
    first, *rest = path.split(".")
    if part == "connector":
        return _merger(first, rest, vision, f"{stem}patch_merger.")
    if first == "layers":
        return Origin(f"{stem}layers.{rest[0]}.{'.'.join(_LAYER.get(p, p) for p in rest[1:])}")
    shape = (vision.hidden_size, vision.channels, vision.patch_size, vision.patch_size)
    leaf = rest[0] if rest else "weight"
    return Origin(f"{stem}{_TOWER[first]}.{leaf}", shape if path == "patch_embed.weight" else None)


def _merger(first: str, rest: list[str], vision: VisionConfig, stem: str) -> Origin:
    """Where a tensor of the connector lies."""
    if not rest:
        return Origin(stem + _FEATURES[first])
    width, side = vision.hidden_size, vision.merge_size
    shapes = {"join": (2 * width, width, side, side), "widen": (4 * width, 2 * width, 1, 1)}
    return Origin(f"{stem}{_MERGER[first]}.{rest[0]}", shapes.get(first) if rest[0] == "weight" else None)


FAMILY = Family(config, origin, ERAS, renames=RENAMES)
