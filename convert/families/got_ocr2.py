"""GOT-OCR 2.0 (arXiv 2409.01704) in the layout of transformers: SAM's tower over a page as one tile, Qwen2."""

from __future__ import annotations

from typing import Any

from rave_mlx.config import ConvConnectorConfig, LMMConfig, TileConfig, WindowVisionConfig
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.llava import ERAS, decoder_part
from rave_mlx.convert.families.sam import read_sam, sam_origin
from rave_mlx.convert.families.square_images import processor_keys, read_levels
from rave_mlx.convert.families.text import read_gate, read_text, read_tokens, text_origin
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
_CONNECTOR = {
    "connector.conv1.proj": "conv_upsampler1",
    "connector.conv2.proj": "conv_upsampler2",
    "connector.proj": "multimodal_projector",
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
    """The tower."""
    vision.require("model_type", "got_ocr2_vision")
    return read_sam(vision, 3072)


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
    if canonical.startswith("vision."):
        return sam_origin(canonical.removeprefix("vision."), vision, _TOWER)
    module, _, leaf = canonical.rpartition(".")
    width = vision.output_size
    kernels = {
        "connector.conv1.proj": (2 * width, width, 3, 3),
        "connector.conv2.proj": (config.text.hidden_size, 2 * width, 3, 3),
    }
    return Origin(f"{_PROJECTOR}{_CONNECTOR[module]}.{leaf}", kernels.get(module))


FAMILY = Family(config, origin, ERAS, template=TEMPLATE)
