"""GOT-OCR 2.0 (arXiv 2409.01704) in the layout of transformers: SAM's tower over a page as one tile, Qwen2."""

from __future__ import annotations

from typing import Any

from rave_mlx.config import ConvConnectorConfig, LMMConfig, TextConfig, TileConfig, WindowVisionConfig
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.llava import ERAS, decoder_part
from rave_mlx.convert.families.square_images import processor_keys, read_levels
from rave_mlx.convert.families.text import read_gate, read_text, read_tokens, text_origin
from rave_mlx.convert.families.towers import ACTIVATIONS
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou should follow the instructions carefully and explain "
    "your answers in detail.<|im_end|>{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}"
    "{% if loop.first or loop.previtem.type != 'image' %}<img>{% endif %}<imgpad>"
    "{% if loop.last or loop.nextitem.type != 'image' %}</img>\n{% endif %}"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What GotOcr2Processor writes; its checkpoints bring no template."""

_TOWER, _PROJECTOR = "model.vision_tower.", "model.multi_modal_projector."
_TOP = {
    "vision.patch_embed": f"{_TOWER}patch_embed.projection",
    "vision.neck1": f"{_TOWER}neck.conv1",
    "vision.neck_norm1": f"{_TOWER}neck.layer_norm1",
    "vision.neck2.proj": f"{_TOWER}neck.conv2",
    "vision.neck_norm2": f"{_TOWER}neck.layer_norm2",
    "connector.conv1.proj": f"{_PROJECTOR}conv_upsampler1",
    "connector.conv2.proj": f"{_PROJECTOR}conv_upsampler2",
    "connector.proj": f"{_PROJECTOR}multimodal_projector",
}
_LAYER = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attention": "attn",
    "rows": "rel_pos_h",
    "columns": "rel_pos_w",
    "fc1": "mlp.lin1",
    "fc2": "mlp.lin2",
}


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole = Keys(source.config, str(source.path / "config.json"))
    tower = _tower(whole.section("vision_config"))
    part, kind = decoder_part(whole, source, "qwen2")
    tied = whole.get("tie_word_embeddings", bool, part.get("tie_word_embeddings", bool, True))
    decoder = read_text(part, whole, kind, tie_embeddings=tied)
    return LMMConfig(
        family="got_ocr2",
        text=decoder,
        tokens=read_tokens(
            source, whole, part, image=whole.get("image_token_index", int, whole.get("image_token_id", int, 151859))
        ),
        vision=tower,
        connector=ConvConnectorConfig(tower.output_size, decoder.hidden_size),
        image=_images(source, tower),
        gate=read_gate(whole, source.config),
    )


def _tower(vision: Keys) -> WindowVisionConfig:
    """The tower, over the defaults of its class."""
    vision.require("model_type", "got_ocr2_vision")
    depth = vision.get("num_hidden_layers", int, 12)
    whole = vision.get("global_attn_indexes", list, [2, 5, 8, 11])
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in whole):
        raise ConfigError(f"{vision.where}: global_attn_indexes {whole} should be numbers of layers")
    return WindowVisionConfig(
        depth=depth,
        hidden_size=vision.get("hidden_size", int, 768),
        intermediate_size=vision.get("mlp_dim", int, 3072),
        num_heads=vision.get("num_attention_heads", int, 12),
        tile_size=_square(vision, "image_size", 1024),
        patch_size=_square(vision, "patch_size", 16),
        window_size=vision.get("window_size", int, 14),
        output_size=vision.get("output_channels", int, 256),
        full_attention_layers=tuple(i for i in range(depth) if i in whole),
        channels=vision.get("num_channels", int, 3),
        norm_eps=vision.get("layer_norm_eps", float, 1e-6),
        activation=vision.choice("hidden_act", ACTIVATIONS, "gelu"),
        qkv_bias=vision.get("qkv_bias", bool, True),
        positions=vision.get("use_abs_pos", bool, True),
        relative_positions=vision.get("use_rel_pos", bool, True),
    )


def _images(source: Source, tower: WindowVisionConfig) -> TileConfig:
    """Pre-processing of GotOcr2ImageProcessor: the page as one tile, or with `crop_to_patches` as several."""
    keys = processor_keys(source)
    size = keys.get("size", dict, {"height": 384, "width": 384})
    if (size.get("height"), size.get("width")) != (tower.tile_size, tower.tile_size):
        raise ConfigError(
            f"{keys.where}: size {size} does not fit the tower, which reads tiles of {tower.tile_size} pixels "
            "(image_size in config.json)"
        )
    tiled: dict[str, Any] = {}
    if keys.get("crop_to_patches", bool, False):
        tiled = {"plan": "closest", "min_tiles": keys.get("min_patches", int, 1)}
        tiled["max_tiles"] = keys.get("max_patches", int, 12)
    side = -(-tower.side // 4)
    return TileConfig(tower.tile_size, tower.patch_size, side**2, **tiled, **read_levels(keys))


def _square(vision: Keys, name: str, default: int) -> int:
    """A side in pixels, given as a number or as (height, width)."""
    value = vision.get(name, (int, list), default)
    sides = value if isinstance(value, list) else [value]
    if not sides or any(side != sides[0] or not isinstance(side, int) for side in sides) or sides[0] < 1:
        raise ConfigError(f"{vision.where}: {name} {value!r} is no square of whole pixels")
    return int(sides[0])


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    if canonical.startswith("decoder."):
        return text_origin(canonical, config, hub)
    vision = config.vision
    assert isinstance(vision, WindowVisionConfig)
    if canonical == "vision.positions":
        return Origin(f"{_TOWER}pos_embed", (1, vision.side, vision.side, vision.hidden_size))
    stem, _, leaf = canonical.rpartition(".")
    if stem in _TOP:
        return Origin(f"{_TOP[stem]}.{leaf}", _kernel(stem, vision, config.text) if leaf == "weight" else None)
    index, *parts = canonical.removeprefix("vision.layers.").split(".")
    return Origin(f"{_TOWER}layers.{index}.{'.'.join(_LAYER.get(part, part) for part in parts)}")


def _kernel(stem: str, vision: WindowVisionConfig, text: TextConfig) -> tuple[int, ...] | None:
    """The shape of a convolution's weights, which are a matrix here; None for what is no convolution."""
    width, side = vision.output_size, vision.patch_size
    shapes = {
        "vision.patch_embed": (vision.hidden_size, vision.channels, side, side),
        "vision.neck1": (width, vision.hidden_size, 1, 1),
        "vision.neck2.proj": (width, width, 3, 3),
        "connector.conv1.proj": (2 * width, width, 3, 3),
        "connector.conv2.proj": (text.hidden_size, 2 * width, 3, 3),
    }
    return shapes.get(stem)


FAMILY = Family(config, origin, ERAS, template=TEMPLATE)
