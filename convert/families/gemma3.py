"""Gemma 3 (arXiv 2503.19786): SigLIP over one square tile, features averaged over squares, a decoder with norms before
and after both of its parts, most of its layers with a sliding window. The tokens of an image see each other."""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from typing import Any

from rave_mlx.checkpoint import directory
from rave_mlx.config import LMMConfig, PoolConnectorConfig, RopeConfig, TextConfig, TileConfig, TileVisionConfig
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.llava import ERAS
from rave_mlx.convert.families.square_images import check_sides, processor_keys, read_levels
from rave_mlx.convert.families.text import CUT_OUT, read_gate, read_tokens, text_origin
from rave_mlx.convert.families.towers import ACTIVATIONS, IGNORED, read_tower, tower_origin
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.rope import context, read_rope
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

TEXT: HubConfig = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
"""What a configuration leaves out of the decoder."""
_PATTERN = 6
"""Every so many layers one sees everything, where nothing else is said."""
_THETAS = {"full_attention": ("rope_theta", 1e6), "sliding_attention": ("rope_local_base_freq", 1e4)}
"""By kind of layer: the older key of the base of its rotary positions, and what its absence means."""

_PROJECTOR = {
    "connector.norm.weight": "model.multi_modal_projector.mm_soft_emb_norm.weight",
    "connector.projection": "model.multi_modal_projector.mm_input_projection_weight",
}
_NORMS = {
    "attention_out_norm": "post_attention_layernorm",
    "post_attention_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
}


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole = Keys(source.config, str(source.path / "config.json"))
    section = whole.section("text_config")
    section.require("model_type", "gemma3_text")
    part = Keys({**TEXT, **source.config["text_config"]}, section.where)
    tied = whole.get("tie_word_embeddings", bool, part.get("tie_word_embeddings", bool, True))
    decoder = read_decoder(part, tied=tied)
    vision = whole.section("vision_config")
    vision.require("model_type", "siglip_vision_model")
    tower = read_tower(vision, "siglip_vision_model")
    count = whole.get("mm_tokens_per_image", int, 256)
    tokens = read_tokens(source, ended(whole, source), part, image=token_id(whole, "image", 262144))
    return LMMConfig(
        family="gemma3",
        text=decoder,
        tokens=replace(tokens, placeholder=token_id(whole, "boi", 255999)),
        vision=tower,
        connector=PoolConnectorConfig(
            tower.hidden_size, _pool(tower, count, whole.where), decoder.hidden_size, tower.norm_eps
        ),
        image=_images(source, tower, count, _around(source, whole)),
        gate=read_gate(whole, source.config),
        mask="image",
    )


def text_config(source: Source) -> LMMConfig:
    """The canonical configuration of a decoder alone (`gemma3_text`)."""
    whole = Keys({**TEXT, **source.config}, str(source.path / "config.json"))
    return LMMConfig(
        family="gemma3_text",
        text=read_decoder(whole, tied=whole.get("tie_word_embeddings", bool, True)),
        tokens=read_tokens(source, ended(whole, source), whole),
        gate=read_gate(whole, source.config),
    )


def read_decoder(text: Keys, *, tied: bool) -> TextConfig:
    """The decoder from its section, in which nothing is left out.

    Args:
        text: the section.
        tied: whether the embeddings serve as the head.

    Raises:
        ConfigError: for settings that are malformed or not supported.
    """
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        text.require(name, None)
    if text.get("use_bidirectional_attention", bool, False):
        raise ConfigError(f"{text.where}: use_bidirectional_attention is not supported; such a model writes no answers")
    width, scalar = text.need("head_dim", int), text.need("query_pre_attn_scalar", (int, float))
    if scalar <= 0 or width < 1:
        raise ConfigError(f"{text.where}: query_pre_attn_scalar {scalar} and head_dim {width} must be above 0")
    hidden, layers = text.need("hidden_size", int), text.need("num_hidden_layers", int)
    biased = text.get("attention_bias", bool, False)
    rope, local = (_rope(text, kind) for kind in _THETAS)
    fields: dict[str, Any] = _windows(text, layers)
    if fields and local != rope:
        fields["sliding_rope"] = local
    return TextConfig(
        vocab_size=text.need("vocab_size", int),
        hidden_size=hidden,
        intermediate_size=text.need("intermediate_size", int),
        num_layers=layers,
        num_heads=text.need("num_attention_heads", int),
        num_kv_heads=text.need("num_key_value_heads", int),
        head_dim=width,
        rope=rope,
        max_positions=context(rope, text.need("max_position_embeddings", int)),
        norm_eps=text.need("rms_norm_eps", float),
        qkv_bias=biased,
        output_bias=biased,
        qk_norm=True,
        sublayer_norms=True,
        offset_norms=True,
        activation=text.choice("hidden_activation", ACTIVATIONS, None),
        embed_scale=hidden**0.5 if hidden > 0 else 1.0,
        query_scale=1.0 if scalar == width else (width / scalar) ** 0.5,
        tie_embeddings=tied,
        **fields,
    )


def _rope(text: Keys, kind: str) -> RopeConfig:
    """Rotary positions of the layers of a kind; `rope_scaling` of older configurations is that of the full ones."""
    old, default = _THETAS[kind]
    both = Keys(text.get("rope_parameters", dict, {}), f"{text.where}.rope_parameters")
    unknown = sorted(set(text.get("rope_parameters", dict, {})) - set(_THETAS))
    if unknown:
        raise ConfigError(f"{both.where}: unknown keys {', '.join(unknown)}; the kinds of layers are needed")
    settings = dict(both.get(kind, dict, {}))
    if kind == "full_attention":
        settings |= text.get("rope_scaling", dict, {})
    if settings.get("rope_theta") is None:
        settings["rope_theta"] = text.get(old, float, default)
    names = ("max_position_embeddings", "original_max_position_embeddings")
    outer = {name: value for name in names if (value := text.get(name, int, None)) is not None}
    return read_rope(Keys({**outer, "rope_parameters": settings}, f"{text.where}: {kind}"))


def _windows(text: Keys, layers: int) -> dict[str, Any]:
    """The sliding window, and the layers that have it."""
    types = text.get("layer_types", list, None)
    if types is None:
        every = text.get("sliding_window_pattern", int, _PATTERN)
        if every < 1:
            raise ConfigError(f"{text.where}: sliding_window_pattern is {every}; it must be at least 1")
        types = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)]
    sliding = tuple(i for i, name in enumerate(types) if name == "sliding_attention")
    if len(types) != layers or len(sliding) + types.count("full_attention") != layers:
        raise ConfigError(
            f"{text.where}: layer_types must name full_attention or sliding_attention for {layers} layers"
        )
    if not sliding:
        return {}
    window = text.need("sliding_window", int)
    return {"sliding_window": window, "sliding_layers": "all" if len(sliding) == layers else sliding}


def _pool(tower: TileVisionConfig, count: int, where: str) -> int:
    """Features a side of a visual token, for `count` tokens an image."""
    side = isqrt(max(count, 0))
    pool = tower.side // side if side else 0
    if side**2 != count or pool < 1 or tower.side // pool != side:
        raise ConfigError(
            f"{where}: mm_tokens_per_image {count} is no square that {tower.side} patches a side can be averaged to"
        )
    return pool


def _images(source: Source, tower: TileVisionConfig, count: int, around: tuple[str, str]) -> TileConfig:
    """How Gemma3ImageProcessor and Gemma3Processor make images."""
    keys = processor_keys(source)
    keys.require("do_center_crop", False)
    if keys.get("do_pan_and_scan", bool, False):
        raise ConfigError(
            f"{keys.where}: do_pan_and_scan is not supported; set it to false, images are read as a whole"
        )
    if source.processor.get("size") is not None:
        check_sides(Keys({**source.processor, "do_center_crop": False}, keys.where), tower.tile_size)
    elif tower.tile_size != 224:
        raise ConfigError(f"{keys.where}: size is missing, and its default of 224 pixels is not the tower's")
    half = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2}
    given = {name: value for name, value in source.processor.items() if value is not None}
    return TileConfig(
        tower.tile_size,
        tower.patch_size,
        count,
        before=f"\n\n{around[0]}",
        after=f"{around[1]}\n\n",
        **read_levels(Keys({**half, **given}, keys.where)),
    )


def _around(source: Source, whole: Keys) -> tuple[str, str]:
    """The tokens before and after an image's."""
    ids = token_id(whole, "boi", 255999), token_id(whole, "eoi", 256000)
    return around(source, ids, ("<start_of_image>", "<end_of_image>"))


def around(source: Source, ids: tuple[int, int], texts: tuple[str, str]) -> tuple[str, str]:
    """The tokens before and after an image's, as the tokenizer writes them.

    Args:
        source: the checkpoint.
        ids: of the two tokens.
        texts: theirs where the tokenizer does not say it.
    """
    file = source.path / directory.TOKENIZER
    added = (directory.read_json(file).get("added_tokens") or []) if file.is_file() else []
    words = {token.get("id"): token.get("content") for token in added if isinstance(token, dict)}
    return str(words.get(ids[0]) or texts[0]), str(words.get(ids[1]) or texts[1])


def ended(whole: Keys, source: Source) -> Keys:
    """The configuration with the class's own end of an answer, which counts where none is given."""
    return Keys({"eos_token_id": 1, **source.config}, whole.where)


def token_id(whole: Keys, name: str, default: int) -> int:
    """A token's id, under the key of either time."""
    found: int = whole.get(f"{name}_token_index", int, whole.get(f"{name}_token_id", int, default))
    return found


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    if canonical in _PROJECTOR:
        return Origin(_PROJECTOR[canonical])
    if canonical.startswith("vision."):
        assert isinstance(config.vision, TileVisionConfig)
        return tower_origin(canonical, config.vision)
    stem = "model." if config.vision is None else "model.language_model."
    path, _, leaf = canonical.removeprefix("decoder.layers.").rpartition(".")
    index, _, module = path.partition(".")
    if module in _NORMS:
        return Origin(f"{stem}layers.{index}.{_NORMS[module]}.{leaf}")
    return text_origin(canonical, config, hub, stem)


FAMILY = Family(config, origin, ERAS, IGNORED)
TEXT_FAMILY = Family(text_config, origin, CUT_OUT)
