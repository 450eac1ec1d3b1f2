"""Granite-Docling, the models of 500M and 2B: SigLIP over the tiles of a page, a connector with DeepStack, Granite.

That of 258M is an Idefics3.
"""

from __future__ import annotations

from typing import Any

from rave_mlx.config import DenseTiles, LMMConfig, PathConnectorConfig, TextConfig, TileConfig, TileVisionConfig
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.pixel_shuffle import tile_tokens
from rave_mlx.convert.families.square_images import processor_keys, read_levels
from rave_mlx.convert.families.text import read_gate, read_tokens, text_origin
from rave_mlx.convert.families.towers import ACTIVATIONS, tower_origin
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.rope import context, read_rope
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

TEXT: HubConfig = {
    "vocab_size": 133800,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 100257,
    "eos_token_id": 100257,
    "attention_bias": False,
    "mlp_bias": False,
    "embedding_multiplier": 12.0,
    "logits_scaling": 4.0,
    "residual_multiplier": 0.263,
    "attention_multiplier": 0.015625,
}
"""Defaults of the decoder: the 500M model."""
VISION: HubConfig = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 512,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "out_hidden_size": 1024,
    "scale_factor": 4,
    "deepstack_visual_indexes": [3, 7, 10],
    "use_fine_route": True,
}
"""Defaults of the tower and the connector."""
PROCESSOR: HubConfig = {
    "size": {"height": 512, "width": 512},
    "crop_to_patches": True,
    "min_patches": 1,
    "max_patches": 32,
    "fine_route": False,
    "dense_max_patches": 0,
    "dense_max_scale": 0.0,
    "dense_min_aspect": 0.0,
    "dense_max_aspect": 0.0,
}
"""Defaults of the image processor."""
_SIDE = 16
"""Tiles a side of a page: the tokenizer names no more rows and columns."""
_CONNECTOR = "model.vision_model.connector."
_TOP = {
    "norm_in": "ln_in",
    "norm_mid": "ln_mid",
    "norm_out": "ln_out",
    "proj": "mlp_fc2",
    "coarse.proj": "coarse.projection",
    "fine.proj": "fine.projection",
}
_STATE = {"norm": "layer_norm", "fc1": "linear_1", "fc2": "linear_2"}
_ROUTER = {"attention": "att", "norm": "norm", "fc1": "fc1", "fc2": "fc2"}


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole = Keys(source.config, str(source.path / "config.json"))
    section, tower_section = whole.section("text_config"), whole.section("vision_config")
    text = Keys({**TEXT, **source.config["text_config"]}, section.where)
    text.require("model_type", "granite_docling_text")
    given = {name: value for name, value in source.config["vision_config"].items() if value is not None}
    vision = Keys({**VISION, **given}, tower_section.where)
    decoder = read_decoder(text, tied=whole.get("tie_word_embeddings", bool, True))
    states = _states(vision, decoder)
    tower = _tower(vision, states)
    vision.require("out_hidden_size", decoder.hidden_size)
    keys = processor_keys(source)
    settings = Keys({**PROCESSOR, **{n: v for n, v in source.processor.items() if v is not None}}, keys.where)
    connector = PathConnectorConfig(
        input_size=tower.hidden_size,
        scale=vision.need("scale_factor", int),
        output_size=decoder.hidden_size,
        states=len(states),
        fine=vision.need("use_fine_route", bool),
        path="fine" if settings.need("fine_route", bool) else "coarse",
        token_scale=decoder.embed_scale,
        router_size=whole.get("density_router_hidden_size", int, None),
    )
    tile_tokens(tower, connector.scale, vision.where)
    return LMMConfig(
        family="granite_docling",
        text=decoder,
        tokens=read_tokens(source, whole, text, image=whole.get("image_token_id", int, 100337)),
        vision=tower,
        connector=connector,
        image=_images(settings, keys, tower, tile_tokens(tower, connector.taken_scale, vision.where)),
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
    hidden, heads = text.need("hidden_size", int), text.need("num_attention_heads", int)
    width = text.get("head_dim", int, hidden // heads if heads > 0 else 0)
    biased = text.need("attention_bias", bool)
    rope = read_rope(text, default_theta=10000.0)
    scale = {name: text.need(name, float) for name in TEXT if name.endswith(("multiplier", "scaling"))}
    wrong = [name for name, value in scale.items() if not value > 0]
    if wrong or width < 1:
        name = wrong[0] if wrong else "head_dim"
        raise ConfigError(f"{text.where}: {name} {scale.get(name, width)} must be above 0")
    return TextConfig(
        vocab_size=text.need("vocab_size", int),
        hidden_size=hidden,
        intermediate_size=text.need("intermediate_size", int),
        num_layers=text.need("num_hidden_layers", int),
        num_heads=heads,
        num_kv_heads=text.need("num_key_value_heads", int),
        head_dim=width,
        rope=rope,
        max_positions=context(rope, text.need("max_position_embeddings", int)),
        norm_eps=text.need("rms_norm_eps", float),
        qkv_bias=biased,
        output_bias=biased,
        mlp_bias=text.need("mlp_bias", bool),
        activation=text.choice("hidden_act", ACTIVATIONS, None),
        embed_scale=scale["embedding_multiplier"],
        query_scale=scale["attention_multiplier"] * width**0.5,
        residual_scale=scale["residual_multiplier"],
        logit_scale=1 / scale["logits_scaling"],
        tie_embeddings=tied,
    )


def _states(vision: Keys, decoder: TextConfig) -> tuple[int, ...]:
    """The layers of the tower whose outputs are added to those of the decoder's first layers."""
    layers, depth = vision.need("deepstack_visual_indexes", list), vision.need("num_hidden_layers", int)
    if layers != sorted({layer for layer in layers if type(layer) is int and 0 <= layer < depth}):
        raise ConfigError(
            f"{vision.where}: deepstack_visual_indexes {layers} should name layers of the tower, in order"
        )
    if len(layers) > decoder.num_layers:
        raise ConfigError(f"{vision.where}: deepstack_visual_indexes names more layers than the decoder has")
    return tuple(layers)


def _tower(vision: Keys, states: tuple[int, ...]) -> TileVisionConfig:
    return TileVisionConfig(
        depth=vision.need("num_hidden_layers", int),
        hidden_size=vision.need("hidden_size", int),
        intermediate_size=vision.need("intermediate_size", int),
        num_heads=vision.need("num_attention_heads", int),
        tile_size=_side(vision, "image_size"),
        patch_size=_side(vision, "patch_size"),
        feature_layers=(-1, *(layer + 1 for layer in states)),
        activation=vision.choice("hidden_act", ACTIVATIONS, None),
        norm_eps=vision.need("layer_norm_eps", float),
        channels=vision.need("num_channels", int),
    )


def _side(vision: Keys, name: str) -> int:
    """A side in pixels."""
    side: int = vision.need(name, int)
    if side < 1:
        raise ConfigError(f"{vision.where}: {name} is {side}; it must be at least 1")
    return side


def _images(settings: Keys, given: Keys, tower: TileVisionConfig, tokens: int) -> TileConfig:
    """Pre-processing of GraniteDoclingImageProcessor."""
    size = settings.need("size", dict)
    if (size.get("height"), size.get("width")) != (tower.tile_size, tower.tile_size):
        raise ConfigError(
            f"{settings.where}: size {size} does not fit the tower, which reads tiles of {tower.tile_size} pixels "
            "(image_size in config.json)"
        )
    most = settings.need("max_patches", int) if settings.need("crop_to_patches", bool) else 1
    more = settings.need("dense_max_patches", int)
    dense: dict[str, Any] = {
        "below": settings.need("dense_max_scale", float),
        "min_aspect": settings.need("dense_min_aspect", float),
        "max_aspect": settings.need("dense_max_aspect", float),
    }
    return TileConfig(
        tile_size=tower.tile_size,
        patch_size=tower.patch_size,
        tile_tokens=tokens,
        plan="closest",
        min_tiles=min(settings.need("min_patches", int), most),
        max_tiles=most,
        max_side=_SIDE,
        dense=DenseTiles(more, **dense) if more else None,
        markers="page",
        **read_levels(given),
    )


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    if canonical.startswith("decoder."):
        return text_origin(canonical, config, hub, "model.text_model.")
    if canonical.startswith("vision."):
        assert isinstance(config.vision, TileVisionConfig)
        return tower_origin(canonical, config.vision, "model.vision_model.")
    path, _, leaf = canonical.removeprefix("connector.").rpartition(".")
    if path in _TOP:
        return Origin(f"{_CONNECTOR}{_TOP[path]}.{leaf}")
    if path.startswith("router."):
        return Origin(f"model.density_router.{_ROUTER[path.removeprefix('router.')]}.{leaf}")
    side, _, index, module = path.split(".")
    return Origin(f"{_CONNECTOR}{side}.deepstack_mergers.{index}.{_STATE[module]}.{leaf}")


FAMILY = Family(config, origin, ignored=(r"mtp\..*",))
