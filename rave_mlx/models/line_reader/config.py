"""Shape of a line reader, and the characters that it knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rave_mlx.errors import ConfigError
from rave_mlx.models.finder.config import LINES

SETTINGS, WEIGHTS, NOTICE = LINES
"""Files of a line reader, in the folder of the finder that it reads for; the last says whose the weights are."""
STEP = 8
"""Pixels of a picture's width for which the network gives one character, or none."""
_DOWN = 4
"""The stem's reduction of the height."""


@dataclass(frozen=True)
class Block:
    """One block of the backbone.

    Attributes:
        width: channels that come in.
        out: channels that go out.
        stride: of the rows; columns are never skipped.
        squeeze: whether channels are weighted by what the whole line looks like (arXiv 1709.01507).
    """

    width: int
    out: int
    stride: int = 1
    squeeze: bool = False


@dataclass(frozen=True)
class LineReaderConfig:
    """Shape of a line reader.

    Attributes:
        characters: it knows, in the order of its classes; class 0 is none, so the first has number 1.
        stem: channels of the first convolution; the blocks begin with twice as many.
        blocks: of the backbone.
        mixer: channels of the encoder along the line.
        layers, heads: of that encoder.
        height: of the picture of a line, in pixels.
    """

    characters: str
    stem: int
    blocks: tuple[Block, ...]
    mixer: int
    layers: int = 2
    heads: int = 8
    height: int = 48

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> LineReaderConfig:
        """From a JSON object.

        Args:
            data: the object; each block is an object of the fields of `Block`.
            where: its place, for messages.

        Raises:
            ConfigError: for unknown or missing fields, and shapes that no line reader has.
        """
        known = {field.name for field in fields(cls)}
        wrong = sorted(set(data) - known) or sorted({"characters", "stem", "blocks", "mixer"} - set(data))
        if wrong:
            raise ConfigError(f"{where}: {', '.join(wrong)}: not the configuration of a line reader")
        try:
            blocks = tuple(Block(**block) for block in data["blocks"])
        except TypeError as error:
            raise ConfigError(f"{where}: blocks: {error}; not the configuration of a line reader") from None
        config = cls(**{**data, "blocks": blocks})
        counts = [config.stem, config.mixer, config.layers, config.heads, config.height]
        counts += [count for block in blocks for count in (block.width, block.out, block.stride)]
        if not all(type(count) is int and count > 0 for count in counts) or not blocks:
            raise ConfigError(f"{where}: sizes must be whole numbers above 0, and there must be blocks")
        _check(config, where)
        return config

    @property
    def rows(self) -> int:
        """Rows of the backbone's output, which are averaged."""
        rows = self.height // _DOWN
        for block in self.blocks:
            rows = -(-rows // block.stride)
        return rows


def _check(config: LineReaderConfig, where: str) -> None:
    """That the parts fit together.

    Raises:
        ConfigError: where they do not.
    """
    widths = [2 * config.stem, *(block.out for block in config.blocks)]
    if [block.width for block in config.blocks] != widths[:-1]:
        raise ConfigError(f"{where}: each block must begin with as many channels as the one before it ends with")
    if config.mixer % config.heads:
        raise ConfigError(f"{where}: heads must divide mixer")
    if config.height % _DOWN:
        raise ConfigError(f"{where}: height must be a multiple of {_DOWN}")
    if not isinstance(config.characters, str) or len(set(config.characters)) != len(config.characters):
        raise ConfigError(f"{where}: characters must be a text without repetitions")
