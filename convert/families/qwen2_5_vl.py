"""Qwen2.5-VL (arXiv 2502.13923), as transformers 4.4x (flat keys) and 5.x (nested) write it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from rave_mlx.config import (
    ConnectorConfig,
    GateConfig,
    ImageConfig,
    LMMConfig,
    RopeConfig,
    TextConfig,
    TokenConfig,
    VisionConfig,
)
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

GATE_KEY = "pair_gate"
"""Where our export keeps the gate's configuration in a Hub-style config.json."""

_TOP = {
    "vision.patch_embed": "visual.patch_embed.proj",
    "connector.norm": "visual.merger.ln_q",
    "connector.fc1": "visual.merger.mlp.0",
    "connector.fc2": "visual.merger.mlp.2",
    "decoder.embed": "model.embed_tokens",
    "decoder.norm": "model.norm",
    "decoder.head": "lm_head",
}
_PARTS = {
    "vision": {"attention": "attn"},
    "decoder": {
        "attention": "self_attn",
        "input_norm": "input_layernorm",
        "post_attention_norm": "post_attention_layernorm",
    },
}
_STEMS = {"vision": "visual.blocks", "decoder": "model.layers"}


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for a missing key, or a value this family's code does not implement.
    """
    whole = Keys(source.config, str(source.path / "config.json"))
    text = whole.section("text_config", fallback=True)
    vision = whole.section("vision_config")
    text.require("hidden_act", "silu")
    vision.require("hidden_act", "silu")
    if text.get("use_sliding_window", bool, False):
        raise ConfigError(f"{text.where}: use_sliding_window is not supported")
    heads, hidden = text.need("num_attention_heads", int), text.need("hidden_size", int)
    decoder = TextConfig(
        vocab_size=text.need("vocab_size", int),
        hidden_size=hidden,
        intermediate_size=text.need("intermediate_size", int),
        num_layers=text.need("num_hidden_layers", int),
        num_heads=heads,
        num_kv_heads=text.get("num_key_value_heads", int, heads),
        head_dim=text.get("head_dim", int, hidden // heads),
        rope=_rope(text),
        max_positions=text.need("max_position_embeddings", int),
        norm_eps=text.get("rms_norm_eps", float, 1e-6),
        qkv_bias=True,
        tie_embeddings=whole.get("tie_word_embeddings", bool, text.get("tie_word_embeddings", bool, False)),
    )
    tower = VisionConfig(
        depth=vision.need("depth", int),
        hidden_size=vision.need("hidden_size", int),
        intermediate_size=vision.need("intermediate_size", int),
        num_heads=vision.need("num_heads", int),
        patch_size=vision.need("patch_size", int),
        window_size=vision.need("window_size", int),
        full_attention_layers=tuple(vision.need("fullatt_block_indexes", list)),
        temporal_patch_size=vision.get("temporal_patch_size", int, 2),
        merge_size=vision.get("spatial_merge_size", int, 2),
        channels=vision.get("in_channels", int, vision.get("in_chans", int, 3)),
        rope_theta=float(vision.get("rope_parameters", dict, {}).get("rope_theta", 10000.0)),
    )
    gate = source.config.get(GATE_KEY)
    return LMMConfig(
        family="qwen2_5_vl",
        text=decoder,
        tokens=_tokens(source, whole, text),
        vision=tower,
        connector=ConnectorConfig(tower.hidden_size * tower.merge_size**2, hidden),
        image=_image(Keys(source.processor, str(source.path / "preprocessor_config.json")), tower),
        gate=None if gate is None else GateConfig.from_dict(gate, f"{whole.where}.{GATE_KEY}"),
    )


def foreign_name(canonical: str) -> str:
    """The checkpoint's name of a canonical tensor, without the prefixes that differ between eras."""
    stem, _, leaf = canonical.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{leaf}"
    part, _, rest = canonical.partition(".layers.")
    index, _, inner = rest.partition(".")
    names = [_PARTS[part].get(piece, piece) for piece in inner.split(".")]
    if part == "decoder" and names[:2] == ["self_attn", "gate"]:
        names[1] = GATE_KEY
    return ".".join([_STEMS[part], index, *names])


def era_free(name: str) -> str:
    """A checkpoint's tensor name with the prefixes of transformers 5 (and of 4.52) removed."""
    for prefix, plain in (
        ("model.visual.", "visual."),
        ("model.language_model.", "model."),
        ("language_model.model.", "model."),
        ("language_model.lm_head.", "lm_head."),
    ):
        if name.startswith(prefix):
            return plain + name.removeprefix(prefix)
    return name


def modern_name(canonical: str) -> str:
    """The name that transformers 5 writes."""
    name = foreign_name(canonical)
    if name.startswith("model."):
        return "model.language_model." + name.removeprefix("model.")
    return f"model.{name}" if name.startswith("visual.") else name


def foreign_tensor(canonical: str, tensor: mx.array, config: LMMConfig) -> mx.array:
    """A canonical tensor in the checkpoint's shape: the patch embedding is a 3-D convolution there."""
    vision = config.vision
    if canonical != "vision.patch_embed.weight" or vision is None:
        return tensor
    side = vision.patch_size
    return tensor.reshape(vision.hidden_size, vision.channels, vision.temporal_patch_size, side, side)


def foreign_config(config: LMMConfig) -> dict[str, dict[str, Any]]:
    """config.json, generation_config.json and preprocessor_config.json as transformers 5 writes them."""
    text, vision, image, tokens = config.text, config.vision, config.image, config.tokens
    assert vision is not None
    assert image is not None
    whole = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "image_token_id": tokens.image,
        "tie_word_embeddings": text.tie_embeddings,
        "text_config": {
            "model_type": "qwen2_5_vl_text",
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_layers,
            "num_attention_heads": text.num_heads,
            "num_key_value_heads": text.num_kv_heads,
            "head_dim": text.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": text.max_positions,
            "rms_norm_eps": text.norm_eps,
            "use_sliding_window": False,
            "tie_word_embeddings": text.tie_embeddings,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": text.rope.theta,
                "mrope_section": list(text.rope.sections or ()),
            },
            "bos_token_id": tokens.bos,
            "eos_token_id": tokens.stop[0],
            "pad_token_id": tokens.pad,
        },
        "vision_config": {
            "model_type": "qwen2_5_vl_vision",
            "depth": vision.depth,
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_heads": vision.num_heads,
            "hidden_act": "silu",
            "in_channels": vision.channels,
            "in_chans": vision.channels,
            "patch_size": vision.patch_size,
            "window_size": vision.window_size,
            "fullatt_block_indexes": list(vision.full_attention_layers),
            "temporal_patch_size": vision.temporal_patch_size,
            "spatial_merge_size": vision.merge_size,
            "out_hidden_size": text.hidden_size,
        },
    }
    if config.gate is not None:
        whole[GATE_KEY] = config.gate.to_dict()
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": image.patch_size,
        "temporal_patch_size": image.temporal_patch_size,
        "merge_size": image.merge_size,
        "size": {"shortest_edge": image.min_pixels, "longest_edge": image.max_pixels},
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "resample": {"lanczos": 1, "bilinear": 2, "bicubic": 3}[image.resample],
    }
    generation = {"eos_token_id": list(tokens.stop), "pad_token_id": tokens.pad}
    return {"config.json": whole, "generation_config.json": generation, "preprocessor_config.json": processor}


def _rope(text: Keys) -> RopeConfig:
    """`rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (4.x); contradictions are refused."""
    modern = text.get("rope_parameters", dict, None)
    flat = text.get("rope_theta", float, None)
    scaling: dict[str, Any] = modern or text.get("rope_scaling", dict, {})
    theta = (modern or {}).get("rope_theta", flat)
    if theta is None:
        raise ConfigError(f"{text.where}: neither rope_parameters.rope_theta nor rope_theta is given")
    if modern and flat is not None and float(modern.get("rope_theta", flat)) != flat:
        raise ConfigError(f"{text.where}: rope_theta {flat} contradicts rope_parameters.rope_theta {theta}")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ConfigError(f"{text.where}: rope type {kind!r} is not supported for this family")
    sections = scaling.get("mrope_section")
    if sections is None:
        raise ConfigError(f"{text.where}: mrope_section is missing from the rotary settings")
    return RopeConfig(theta=float(theta), sections=tuple(sections))


def _tokens(source: Source, whole: Keys, text: Keys) -> TokenConfig:
    stop = source.generation.get(
        "eos_token_id", text.get("eos_token_id", (int, list), whole.get("eos_token_id", (int, list), None))
    )
    if stop is None:
        raise ConfigError(f"{whole.where}: eos_token_id is given nowhere; without it an answer has no end")
    return TokenConfig(
        stop=tuple(stop) if isinstance(stop, list) else (stop,),
        image=whole.need("image_token_id", int),
        bos=text.get("bos_token_id", int, None),
        pad=text.get("pad_token_id", int, None),
    )


def _image(keys: Keys, tower: VisionConfig) -> ImageConfig:
    size = keys.get("size", dict, {})
    return ImageConfig(
        patch_size=tower.patch_size,
        temporal_patch_size=tower.temporal_patch_size,
        merge_size=tower.merge_size,
        min_pixels=keys.get("min_pixels", int, size.get("shortest_edge", 56 * 56)),
        max_pixels=keys.get("max_pixels", int, size.get("longest_edge", 28 * 28 * 1280)),
        mean=tuple(keys.get("image_mean", list, list(ImageConfig.mean))),
        std=tuple(keys.get("image_std", list, list(ImageConfig.std))),
        resample=keys.choice("resample", {1: "lanczos", 2: "bilinear", 3: "bicubic"}, 3),
    )
