"""The decoder of Gemma 4: layers with a sliding window and without, each kind with heads and rotary positions of its
own; the last layers use the keys and values of earlier ones, and tokens give something to every layer besides."""

from __future__ import annotations

from typing import Any

from rave_mlx.config import ExpertsConfig, LayerInputsConfig, LMMConfig, RopeConfig, RopeScaling, TextConfig
from rave_mlx.convert.families.base import HubConfig, Origin
from rave_mlx.convert.families.gemma3 import ended
from rave_mlx.convert.families.text import read_gate, read_tokens, text_origin
from rave_mlx.convert.families.towers import ACTIVATIONS
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.rope import context, read_rope
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

TEXT: HubConfig = {
    "vocab_size": 262144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 512,
    "vocab_size_per_layer_input": 262144,
    "hidden_size_per_layer_input": 256,
}
"""What a configuration leaves out of the decoder."""
_GLOBAL_WIDTH = 512
"""Width of a head in layers without a window, where nothing else is said."""
_PATTERN = 6
"""Every so many layers one sees everything, where nothing else is said."""
_FULL, _SLIDING = "full_attention", "sliding_attention"
_ROPE: dict[str, dict[str, Any]] = {
    _SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
    _FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
}
_WHOLE = {
    "decoder.layer_inputs.embed": "embed_tokens_per_layer",
    "decoder.layer_inputs.proj": "per_layer_model_projection",
    "decoder.layer_inputs.norm": "per_layer_projection_norm",
}
_LAYER = {
    "attention_out_norm": "post_attention_layernorm",
    "post_attention_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
    "layer_input.gate": "per_layer_input_gate",
    "layer_input.proj": "per_layer_projection",
    "layer_input.norm": "post_per_layer_input_norm",
    "mlp.router": "router.proj",
    "mlp.shared_out_norm": "post_feedforward_layernorm_1",
    "mlp.experts_norm": "pre_feedforward_layernorm_2",
    "mlp.experts_out_norm": "post_feedforward_layernorm_2",
    **{f"mlp.shared.{name}": f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")},
    **{f"mlp.experts.{name}": f"experts.{name}" for name in ("gate_proj", "up_proj", "down_proj")},
}
_LEAF = {
    "out_scale": "layer_scalar",
    "mlp.router_scale": "router.scale",
    "mlp.expert_scale": "router.per_expert_scale",
}


def text_config(source: Source) -> LMMConfig:
    """The canonical configuration of a decoder alone (`gemma4_text`).

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole = Keys({**TEXT, **source.config}, str(source.path / "config.json"))
    return LMMConfig(
        family="gemma4_text",
        text=read_decoder(whole, tied=whole.get("tie_word_embeddings", bool, True)),
        tokens=read_tokens(source, ended(whole, source), whole),
        gate=read_gate(whole, source.config),
    )


def read_mask(text: Keys, default: str | None = None, seen: str = "windows") -> str:
    """What the tokens of an image see of each other: `LMMConfig.mask`.

    Args:
        text: the decoder's section.
        default: what an absent setting means.
        seen: the mask of models that were trained so.

    Raises:
        ConfigError: for a model whose tokens all see each other.
    """
    if text.get("use_bidirectional_attention", str, None) == "all":
        raise ConfigError(
            f"{text.where}: use_bidirectional_attention 'all' is not supported; such a model writes no answers"
        )
    found: str = text.choice("use_bidirectional_attention", {None: "causal", "vision": seen}, default)
    return found


def read_decoder(text: Keys, *, tied: bool) -> TextConfig:
    """The decoder from its section, in which nothing is left out that `TEXT` has.

    Args:
        text: the section.
        tied: whether the embeddings serve as the head.

    Raises:
        ConfigError: for settings that are malformed or not supported.
    """
    read_mask(text)
    hidden, layers = text.need("hidden_size", int), text.need("num_hidden_layers", int)
    types = _layer_types(text, layers)
    (width, groups), (own_width, own_groups) = _heads(text, types)
    biased, cap = text.get("attention_bias", bool, False), text.get("final_logit_softcapping", float, None)
    if cap is not None and cap <= 0:
        raise ConfigError(f"{text.where}: final_logit_softcapping {cap} must be above 0")
    rope = _rope(text, _FULL, width)
    fields: dict[str, Any] = {}
    sliding = tuple(i for i, name in enumerate(types) if name == _SLIDING)
    if sliding:
        local = _rope(text, _SLIDING, own_width)
        fields = {"sliding_window": text.need("sliding_window", int), "sliding_layers": sliding}
        fields |= {"sliding_rope": local} if local != rope else {}
        fields |= {"sliding_head_dim": own_width} if own_width != width else {}
        fields |= {"sliding_kv_heads": own_groups} if own_groups != groups else {}
    return TextConfig(
        vocab_size=text.need("vocab_size", int),
        hidden_size=hidden,
        intermediate_size=text.need("intermediate_size", int),
        num_layers=layers,
        num_heads=text.need("num_attention_heads", int),
        num_kv_heads=groups,
        head_dim=width,
        rope=rope,
        max_positions=context(rope, text.need("max_position_embeddings", int)),
        norm_eps=text.need("rms_norm_eps", float),
        qkv_bias=biased,
        output_bias=biased,
        qk_norm=True,
        sublayer_norms=True,
        activation=text.choice("hidden_activation", ACTIVATIONS, None),
        embed_scale=hidden**0.5 if hidden > 0 else 1.0,
        score_scale=1.0,
        value_norm=True,
        values_from_keys=text.get("attention_k_eq_v", bool, False),
        borrowed_layers=text.get("num_kv_shared_layers", int, 0),
        wide_borrowers=text.get("use_double_wide_mlp", bool, False),
        layer_scales=True,
        layer_inputs=_layer_inputs(text),
        experts=_experts(text),
        logit_cap=cap,
        tie_embeddings=tied,
        **fields,
    )


def _layer_types(text: Keys, layers: int) -> list[str]:
    """The kind of every layer; the last one has no window, whatever is said."""
    types = text.get("layer_types", list, None)
    if types is None:
        types = [_SLIDING if (i + 1) % _PATTERN else _FULL for i in range(layers)]
    if len(types) != layers or any(name not in (_FULL, _SLIDING) for name in types):
        raise ConfigError(f"{text.where}: layer_types must name {_FULL} or {_SLIDING} for {layers} layers")
    return [*types[:-1], _FULL]


def _heads(text: Keys, types: list[str]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width of a head, and heads of keys, in layers without a window and in those with one.

    `per_layer_config`, which transformers 5 writes, says it layer by layer; `global_head_dim` and
    `num_global_key_value_heads` say it of all layers without a window.
    """
    base = {"head_dim": text.need("head_dim", int), "num_key_value_heads": text.need("num_key_value_heads", int)}
    given = text.get("per_layer_config", dict, None)
    if given is None:
        other = {"head_dim": text.get("global_head_dim", int, _GLOBAL_WIDTH)}
        count = text.get("num_global_key_value_heads", int, None)
        if count is not None and text.get("attention_k_eq_v", bool, False):
            other["num_key_value_heads"] = count
        given = {str(i): other for i, name in enumerate(types) if name == _FULL}
    where = f"{text.where}.per_layer_config"
    unknown = sorted({str(key) for entry in given.values() if isinstance(entry, dict) for key in entry} - set(base))
    outside = sorted(set(map(str, given)) - set(map(str, range(len(types)))))
    if unknown or outside or not all(isinstance(entry, dict) for entry in given.values()):
        raise ConfigError(
            f"{where}: {', '.join([*unknown, *outside]) or 'an entry'} is not supported; head_dim and "
            f"num_key_value_heads of layers 0 to {len(types) - 1} are"
        )
    found: dict[str, set[tuple[int, int]]] = {_FULL: set(), _SLIDING: set()}
    for index, name in enumerate(types):
        entry = Keys(given.get(str(index), {}), f"{where}.{index}")
        found[name].add((entry.get("head_dim", int, base["head_dim"]),
                         entry.get("num_key_value_heads", int, base["num_key_value_heads"])))  # fmt: skip
    for name, kinds in found.items():
        if len(kinds) > 1:
            raise ConfigError(f"{where}: layers of the kind {name} differ in head_dim or num_key_value_heads")
    full = next(iter(found[_FULL]))
    return full, next(iter(found[_SLIDING]), full)


def _rope(text: Keys, kind: str, width: int) -> RopeConfig:
    """Rotary positions of the layers of a kind, whose heads have this width."""
    both = Keys(text.get("rope_parameters", dict, _ROPE), f"{text.where}.rope_parameters")
    unknown = sorted(set(text.get("rope_parameters", dict, {})) - set(_ROPE))
    if unknown:
        raise ConfigError(f"{both.where}: unknown keys {', '.join(unknown)}; the kinds of layers are needed")
    settings = dict(both.need(kind, dict))
    where = f"{text.where}: {kind}"
    if settings.get("rope_type") == "proportional":
        return _proportional(Keys(settings, where), set(settings), width)
    if settings.get("rope_type", "default") == "default":
        settings.pop("partial_rotary_factor", None)  # transformers does not read it there
    names = ("max_position_embeddings", "original_max_position_embeddings")
    outer = {name: value for name in names if (value := text.get(name, int, None)) is not None}
    return read_rope(Keys({**outer, "rope_parameters": settings}, where))


def _proportional(keys: Keys, names: set[str], width: int) -> RopeConfig:
    """The first pairs of a head turn, as fast as if all of them did; the others have no position."""
    unknown = sorted(names - {"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor"})
    if unknown:
        raise ConfigError(f"{keys.where}: unknown with rope type 'proportional': {', '.join(unknown)}")
    share, factor = keys.get("partial_rotary_factor", float, 1.0), keys.get("factor", float, 1.0)
    if not 0 <= share <= 1 or factor <= 0:
        raise ConfigError(
            f"{keys.where}: partial_rotary_factor {share} must be from 0 to 1, and factor {factor} above 0"
        )
    turning = int(share * width // 2)
    return RopeConfig(
        theta=keys.need("rope_theta", float),
        scaling=None if factor == 1 else RopeScaling("linear", factor=factor),
        turning=None if turning == width // 2 else turning,
    )


def _experts(text: Keys) -> ExpertsConfig | None:
    """What works beside the MLP of every layer; None where nothing does."""
    if not text.get("enable_moe_block", bool, False):
        return None
    return ExpertsConfig(
        count=text.need("num_experts", int),
        chosen=text.need("top_k_experts", int),
        intermediate_size=text.need("moe_intermediate_size", int),
        beside=True,
    )


def _layer_inputs(text: Keys) -> LayerInputsConfig | None:
    """What tokens give to every layer; None where they have no width for it."""
    width = text.need("hidden_size_per_layer_input", int)
    if not width:
        return None
    return LayerInputsConfig(
        text.need("vocab_size_per_layer_input", int), width, visual=text.get("pad_token_id", int, 0)
    )


def decoder_origin(canonical: str, config: LMMConfig, hub: HubConfig, stem: str) -> Origin:
    """Where a canonical `decoder.*` tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
        stem: what precedes `layers` there.
    """
    module, _, leaf = canonical.rpartition(".")
    if module in _WHOLE:
        return Origin(f"{stem}{_WHOLE[module]}.{leaf}")
    index, _, path = canonical.removeprefix("decoder.layers.").partition(".")
    if path in _LEAF:
        return Origin(f"{stem}layers.{index}.{_LEAF[path]}")
    if (inner := path.rpartition(".")[0]) in _LAYER:
        return Origin(f"{stem}layers.{index}.{_LAYER[inner]}.{leaf}")
    return text_origin(canonical, config, hub, stem)


def is_unused(name: str, config: LMMConfig, stem: str) -> bool:
    """Whether a tensor is of keys and values that a layer has and does not use.

    Args:
        name: of the tensor, a modern one.
        config: the canonical configuration.
        stem: what precedes `layers` there.
    """
    index, _, rest = name.removeprefix(f"{stem}layers.").partition(".")
    if not name.startswith(f"{stem}layers.") or not index.isdigit() or int(index) >= config.text.num_layers:
        return False
    parts = rest.split(".")
    borrows = config.text.lender_of(int(index)) is not None
    return borrows and parts[0] == "self_attn" and parts[1] in ("k_proj", "v_proj", "k_norm", "v_norm")
