"""Qwen3.5: Qwen3-VL's tower without DeepStack, a decoder most of whose layers have linear attention."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx

from rave_mlx.config import LinearAttentionConfig, LMMConfig, TextConfig, VisionConfig
from rave_mlx.convert.families import qwen3_vl
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.qwen import (
    ACTIVATIONS,
    ERAS,
    assemble,
    read_multimodal_rope,
    read_parts,
    read_tower,
)
from rave_mlx.convert.families.text import CUT_OUT, read_gate, read_text, read_tokens, text_origin
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.mlx_numbers import TransformersNumbers
from rave_mlx.convert.rope import rotated_share
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

TEXT: HubConfig = {
    "vocab_size": 248320,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
"""Defaults of the decoder."""
IMAGE = 248056
"""Id of the placeholder of an image, where none is given."""
_KINDS = ("linear_attention", "full_attention")
_ROTATED = 0.25
"""Share of a head that is rotated, where nothing is said."""
_NAMES = {
    "attention": "linear_attn",
    "qkv_proj": "in_proj_qkv",
    "z_proj": "in_proj_z",
    "b_proj": "in_proj_b",
    "a_proj": "in_proj_a",
    "o_proj": "out_proj",
    "conv": "conv1d",
    "decay_log": "A_log",
    "decay_bias": "dt_bias",
}
"""Names in a layer with linear attention, by ours."""
_NORMS = re.compile(
    r"(?:.*\.)?(?:input_layernorm|post_attention_layernorm|q_norm|k_norm|(?:language_)?model\.norm)\.weight"
)
"""Norms that multiply by one plus their weight."""


DecoderReader = Callable[[Keys, Keys], TextConfig]
"""The decoder from its section and from the whole config.json."""


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    return read_whole("qwen3_5", source, TEXT, read_decoder)


def text_config(source: Source) -> LMMConfig:
    """The canonical configuration of a decoder alone (`qwen3_5_text`)."""
    return read_alone("qwen3_5_text", source, TEXT, read_decoder)


def read_whole(family: str, source: Source, defaults: HubConfig, read: DecoderReader) -> LMMConfig:
    """The configuration of tower and decoder.

    Args:
        family: its name.
        source: the checkpoint.
        defaults: of the decoder's section.
        read: what reads that section.
    """
    whole, text, vision = read_parts(source, defaults, qwen3_vl.TOWER)
    whole = Keys({"image_token_id": IMAGE, **source.config}, whole.where)
    decoder = read(text, whole)
    return assemble(family, source, whole, text, decoder, read_vision(vision, decoder))


def read_alone(family: str, source: Source, defaults: HubConfig, read: DecoderReader) -> LMMConfig:
    """The configuration of a decoder alone; arguments as of `read_whole`."""
    whole = Keys({**defaults, **source.config}, str(source.path / "config.json"))
    return LMMConfig(
        family=family,
        text=read(whole, whole),
        tokens=read_tokens(source, whole, whole),
        gate=read_gate(whole, source.config),
    )


def read_vision(vision: Keys, decoder: TextConfig) -> VisionConfig:
    """The tower, which is Qwen3-VL's, for a decoder of this width."""
    vision.require("out_hidden_size", decoder.hidden_size)
    if vision.get("deepstack_visual_indexes", list, []):
        raise ConfigError(f"{vision.where}: deepstack_visual_indexes is not supported; Qwen3.5 has none")
    return read_tower(
        vision,
        hidden_size=vision.need("hidden_size", int),
        intermediate_size=vision.need("intermediate_size", int),
        norm="layer",
        mlp="plain",
        activation=vision.choice("hidden_act", ACTIVATIONS, None),
        patch_bias=True,
        position_side=qwen3_vl.read_side(vision),
    )


def read_decoder(text: Keys, whole: Keys, **changes: Any) -> TextConfig:
    """The decoder.

    Args:
        text: its section, in which nothing is left out.
        whole: the whole configuration.
        changes: fields of `TextConfig` that the family knows better.
    """
    text.require("attn_output_gate", True)
    share = rotated_share(text, _ROTATED)
    width, layers = text.need("head_dim", int), text.need("num_hidden_layers", int)
    rope = read_multimodal_rope(text, (11, 11, 10), interleaved=True, default_theta=10000.0, partial=True)
    biased = text.get("attention_bias", bool, False)
    return read_text(
        text,
        whole,
        "qwen3_5",
        rope=replace(rope, width=None if share == 1 else int(width * share)),
        qkv_bias=biased,
        output_bias=biased,
        qk_norm=True,
        offset_norms=True,
        # A decoder's own section says nothing of its head.
        tie_embeddings=whole.get("tie_word_embeddings", bool, False),
        output_gate=True,
        linear=_read_linear(text, layers),
        **changes,
    )


def _read_linear(text: Keys, layers: int) -> LinearAttentionConfig | None:
    """The layers with linear attention, and its heads; None where there are none."""
    types = text.get("layer_types", list, None)
    if types is None:
        every = text.get("full_attention_interval", int, 4)
        if every < 1:
            raise ConfigError(f"{text.where}: full_attention_interval is {every}; it must be at least 1")
        types = [_KINDS[(i + 1) % every == 0] for i in range(layers)]
    strange = [kind for kind in types if kind not in _KINDS]
    if strange or len(types) != layers:
        raise ConfigError(
            f"{text.where}: layer_types has {f'{strange[0]!r}' if strange else f'{len(types)} entries'}; "
            f"{' or '.join(_KINDS)} is needed for each of {layers} layers"
        )
    linear = tuple(i for i, kind in enumerate(types) if kind == "linear_attention")
    if not linear:
        return None
    numbers = {
        "key_heads": "linear_num_key_heads",
        "value_heads": "linear_num_value_heads",
        "key_dim": "linear_key_head_dim",
        "value_dim": "linear_value_head_dim",
        "kernel": "linear_conv_kernel_dim",
    }
    return LinearAttentionConfig(linear, **{name: text.need(key, int) for name, key in numbers.items()})


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    if not canonical.startswith("decoder."):
        return qwen3_vl.origin(canonical, config, hub)
    stem = "model." if config.vision is None else "model.language_model."
    path = canonical.removeprefix("decoder.layers.").split(".")
    linear = config.text.linear
    if linear is None or not path[0].isdecimal() or int(path[0]) not in linear.layers or path[1] != "attention":
        return text_origin(canonical, config, hub, stem)
    name = f"{stem}layers.{path[0]}.{'.'.join(_NAMES.get(part, part) for part in path[1:])}"
    return Origin(name, (linear.channels, 1, linear.kernel) if path[2] == "conv" else None)


def restored(tensors: Mapping[str, mx.array]) -> Mapping[str, mx.array]:
    """The tensors as transformers stores them.

    MLX packages store what norms multiply with, and convolutions with their channels last, by which they are known.
    """
    shapes = {name: x.shape for name, x in tensors.items() if name.endswith("conv1d.weight")}
    convolutions = {name for name, shape in shapes.items() if len(shape) == 3 and shape[2] == 1 < shape[1]}
    if not convolutions:
        return tensors
    return TransformersNumbers(tensors, convolutions, {name for name in tensors if _NORMS.fullmatch(name)})


IGNORED = (r"(?:model\.(?:language_model\.)?)?mtp\..*",)
"""Layers that predict further tokens, which transformers does not load either."""
FAMILY = Family(config, origin, ERAS, IGNORED, restored=restored)
IGNORED_ALONE = (*IGNORED, r"model\.visual\..*")
"""The same of a decoder alone, which may have been taken from a model with images."""
TEXT_FAMILY = Family(text_config, origin, CUT_OUT, IGNORED_ALONE, restored=restored)
