"""What Idefics3 and InternVL have in common: text backbones of several kinds, tiles whose features are shuffled."""

from __future__ import annotations

from collections.abc import Callable

from rave_mlx.config import LMMConfig, ShuffleConnectorConfig, TextConfig, TileConfig, TileVisionConfig
from rave_mlx.convert.families.text import read_gate, read_text, read_tokens
from rave_mlx.convert.families.text_defaults import with_defaults
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError


def read_model(
    source: Source,
    tower: TileVisionConfig,
    image: TileConfig,
    connector: Callable[[TextConfig], ShuffleConnectorConfig],
    *,
    text: str,
    placeholder: int,
    tied: bool,
) -> LMMConfig:
    """The canonical configuration, once the tower and the images are known.

    Args:
        source: the checkpoint.
        tower, image: the parts that differ between the families.
        connector: the connector to a decoder.
        text: model type of the text backbone where none is given.
        placeholder: the image token's id where none is given.
        tied: whether the embeddings serve as the head where it is not said.
    """
    whole = Keys(source.config, str(source.path / "config.json"))
    section = whole.section("text_config")
    kind = section.get("model_type", str, text)
    part = Keys(with_defaults(source.config["text_config"], kind, section.where), section.where)
    decoder = read_text(part, whole, kind, tie_embeddings=_tied(whole, part, tied))
    return LMMConfig(
        family=whole.need("model_type", str),
        text=decoder,
        tokens=read_tokens(source, whole, part, image=whole.get("image_token_id", int, placeholder)),
        vision=tower,
        connector=connector(decoder),
        image=image,
        gate=read_gate(whole, source.config),
    )


def tile_tokens(tower: TileVisionConfig, scale: int, where: str) -> int:
    """Visual tokens a tile, when `scale` x `scale` features become one.

    Args:
        tower: the vision tower.
        scale: features a side that become one token.
        where: the file, for errors.

    Raises:
        ConfigError: when that does not divide the tower's features.
    """
    if scale < 1 or tower.side % scale:
        raise ConfigError(f"{where}: {tower.side} patches a side of a tile cannot be joined {scale} by {scale}")
    return (tower.side // scale) ** 2


def _tied(whole: Keys, text: Keys, default: bool) -> bool:
    """Whether the configuration says that the embeddings serve as the head."""
    declared: bool = whole.get("tie_word_embeddings", bool, default)
    return declared or text.get("tie_word_embeddings", bool, False)
