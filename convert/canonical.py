"""A foreign checkpoint becomes a model of this package: its configuration, and its tensors under canonical names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rave_mlx.checkpoint import build, directory
from rave_mlx.config import LMMConfig
from rave_mlx.convert import mlx_format
from rave_mlx.convert.expert_tensors import ExpertTensors
from rave_mlx.convert.families import detect
from rave_mlx.convert.families.base import Family
from rave_mlx.convert.plausible import check_layers, check_plausible, unused_stops
from rave_mlx.convert.quantization_settings import foreign_method
from rave_mlx.convert.source import Source
from rave_mlx.convert.split_tensors import SplitTensors
from rave_mlx.convert.stored import Stored
from rave_mlx.convert.tensor_names import modern_names
from rave_mlx.convert.tied_head import settle_head
from rave_mlx.convert.translate import Translation
from rave_mlx.errors import ConfigError, ModelError
from rave_mlx.models.lmm import LMM


def canonical(source: Source) -> Stored:
    """Translate a checkpoint; nothing but settings and headers is read before its tensors are taken.

    Raises:
        ConfigError, ModelError: for a checkpoint that is incomplete, malformed or not supported.
    """
    family = detect(source.config, str(source.path / directory.CONFIG))
    check_layers(source)
    config = _read_config(family, source)
    check_plausible(config, source)
    weights = replace(source, tensors=SplitTensors(source.tensors, family.stacked)) if family.stacked else source
    if family.restored is not None:
        weights = replace(weights, tensors=family.restored(weights.tensors))
    if config.text.experts is not None:
        weights = replace(weights, tensors=ExpertTensors(weights.tensors, config.text, str(source.path)))
    config, names = settle_head(weights, family, config, modern_names(weights, family, config))
    lmm = build.build(config, source.tokenizer, _template(family, source), source.path)
    translation, notes = _translation(weights, family, lmm, names)
    lmm.config = replace(config, quantization=translation.quantization())
    return Stored(
        path=source.path,
        name=source.name,
        commit=source.commit,
        lmm=lmm,
        tensors=translation.tensors(),
        size=sum(tensor.nbytes for tensor in source.tensors.values()),
        files=tuple(source.files()),
        tokenizer=source.tokenizer,
        hub=source.hub_files(),
        notes=(*unused_stops(config, source), *notes),
        place=translation.place,
    )


def _translation(source: Source, family: Family, lmm: LMM, names: Mapping[str, str]) -> tuple[Translation, list[str]]:
    """Where the weights lie, and notes about a configuration that speaks of a quantization that they do not have."""
    method = foreign_method(source.config, source.path)
    try:
        translation = Translation.read(source, family, lmm.config, lmm.named_weights(), names)
    except ModelError:
        if method is None:
            raise
        # Whatever does not fit is how that method stores its weights: no list of its tensors is needed.
        raise mlx_format.refusal(source, method) from None
    if method is None and (mlx_format.declared(source) is None or translation.packed):
        return translation, []
    return translation, [
        f"warning: {source.path / directory.CONFIG} speaks of quantization by {method or 'mlx'!r}, and the weights are "
        "plain numbers; they are read as they are"
    ]


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
