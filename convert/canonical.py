"""A foreign checkpoint becomes a model of this package: its configuration, and its tensors under canonical names."""

from __future__ import annotations

from dataclasses import replace

from rave_mlx.checkpoint import build, directory
from rave_mlx.config import LMMConfig
from rave_mlx.convert.families import detect
from rave_mlx.convert.families.base import Family
from rave_mlx.convert.plausible import check_layers, check_plausible
from rave_mlx.convert.source import Source
from rave_mlx.convert.stored import Stored
from rave_mlx.convert.translate import read_quantization, translate
from rave_mlx.errors import ConfigError


def canonical(source: Source) -> Stored:
    """Translate a checkpoint; nothing but settings and headers is read before its tensors are taken.

    Raises:
        ConfigError, ModelError: for a checkpoint that is incomplete, malformed or not supported.
    """
    family = detect(source.config, str(source.path / directory.CONFIG))
    check_layers(source)
    config = _read_config(family, source)
    check_plausible(config, source)
    lmm = build.build(config, source.tokenizer, _template(family, source), source.path)
    expected = lmm.named_weights()
    packing = read_quantization(source, family, config, expected)
    tensors = translate(source, family, config, expected)
    lmm.config = replace(config, quantization=packing)
    return Stored(
        path=source.path,
        name=source.name,
        commit=source.commit,
        lmm=lmm,
        tensors=tensors,
        bytes=sum(tensor.nbytes for tensor in source.tensors.values()),
        files=tuple(source.files()),
        tokenizer=source.tokenizer,
        hub=source.hub_files(),
    )


def _template(family: Family, source: Source) -> str:
    """The chat template: the checkpoint's own file, else the family's, else what the tokenizer's settings hold."""
    own = (source.path / directory.TEMPLATE).is_file()
    return source.template if own or family.template is None else family.template


def _read_config(family: Family, source: Source) -> LMMConfig:
    """The canonical configuration; an error that speaks of its fields alone gets the file's name."""
    try:
        # Read back as from a file: that checks the type of every field.
        return LMMConfig.from_dict(family.config(source).to_dict())
    except ConfigError as error:
        if str(source.path) in str(error):
            raise
        raise ConfigError(f"{source.path / directory.CONFIG}: {error}") from None
    except ArithmeticError as error:
        raise ConfigError(f"{source.path / directory.CONFIG}: its numbers do not make a model ({error})") from None
