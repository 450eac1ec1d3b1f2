"""The text backbones: Llama, Mistral, Qwen2, Qwen3 and Phi-3, alone or inside a vision-language model.

They are one decoder with different switches. Keys that a model type's own code does not read are refused when they
say something else than that code does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rave_mlx.checkpoint import directory
from rave_mlx.config import GateConfig, LMMConfig, TextConfig, TokenConfig
from rave_mlx.convert.families import experts
from rave_mlx.convert.families.base import GATE_KEY, HubConfig, Origin
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.rope import context, read_rope
from rave_mlx.convert.source import Source
from rave_mlx.convert.tokenizer_settings import read_tokenizer_settings
from rave_mlx.errors import ConfigError

_BIASED = ("qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "glm4v")
_NORMED = ("qwen3", "qwen3_moe", "qwen3_vl", "qwen3_vl_moe")
_WIDE = ("qwen3", "qwen3_vl")
"""Backbones whose heads are 128 wide where nothing else is said."""
_MLP = ("gate_proj", "up_proj")
_GLM = ("glm4v", "glm46v", "glm_ocr")
_FUSED = {"phi3": ("q_proj", "k_proj", "v_proj", *_MLP), **dict.fromkeys(_GLM, _MLP)}
"""Projections that lie in one matrix with others, by backbone."""
BACKBONES = ("llama", "mistral", "qwen2", "qwen3", "phi3")
"""Model types of text backbones."""
EXPERT_BACKBONES = ("qwen2_moe", "qwen3_moe")
"""Those with experts."""
CUT_OUT = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)
"""Names in a decoder that was saved alone out of a model with images, as some pruning and merging programs leave them
beside the decoder's own config.json."""

_THETA = 10000.0
"""Rotary base of the backbones where a file, an old one say, does not give it."""

_NAMES = {
    "attention": "self_attn",
    "input_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "attention_out_norm": "post_self_attn_layernorm",
    "mlp_out_norm": "post_mlp_layernorm",
    "gate": GATE_KEY,
    **experts.NAMES,
}


def backbone(config: HubConfig) -> str:
    """Model type of the text part of a config.json ("qwen2_5_vl_text" counts as "qwen2_5_vl")."""
    text = config.get("text_config")
    kind = text.get("model_type") if isinstance(text, Mapping) else None
    return str(kind or config.get("model_type", "")).removesuffix("_text")


def read_text(text: Keys, whole: Keys, kind: str, **changes: Any) -> TextConfig:
    """The decoder from `text_config` (or a flat configuration).

    Args:
        text: the section with the decoder's keys.
        whole: the whole configuration.
        kind: the backbone's model type.
        changes: fields that the family knows better.
    """
    text.require("hidden_act", "silu")
    if "mlp_bias" not in changes:
        text.require("mlp_bias", False)
    if "qkv_bias" not in changes:
        text.require("attention_bias", kind in _BIASED)
    if "rope" not in changes:
        text.require("partial_rotary_factor", 1.0)
    heads, hidden = text.need("num_attention_heads", int), text.need("hidden_size", int)
    layers = text.need("num_hidden_layers", int)
    rope = changes.pop("rope", None) or read_rope(
        text, default_theta=_THETA if kind in (*BACKBONES, *EXPERT_BACKBONES) else None
    )
    fields: dict[str, Any] = {
        "vocab_size": text.need("vocab_size", int),
        "hidden_size": hidden,
        "intermediate_size": text.need("intermediate_size", int),
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": text.get("num_key_value_heads", int, heads),
        "head_dim": text.get("head_dim", int, 128 if kind in _WIDE else hidden // heads),
        "rope": rope,
        "max_positions": context(rope, text.need("max_position_embeddings", int)),
        "norm_eps": text.get("rms_norm_eps", float, 1e-5 if kind == "phi3" else 1e-6),
        "qkv_bias": kind in _BIASED,
        "qk_norm": kind in _NORMED,
        "tie_embeddings": whole.get("tie_word_embeddings", bool, text.get("tie_word_embeddings", bool, False)),
    }
    windows = {} if "linear" in changes else _sliding(text, kind, layers)
    return TextConfig(**(fields | windows | changes))


def text_origin(
    canonical: str,
    config: LMMConfig,
    hub: HubConfig,
    stem: str = "model.language_model.",
    names: Mapping[str, str] | None = None,
) -> Origin:
    """Where a canonical `decoder.*` tensor lies; `stem` precedes `layers`, `embed_tokens` and `norm`.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
        stem: what precedes `layers`, `embed_tokens` and `norm` there.
        names: further names of modules in a layer, by ours.
    """
    path, _, leaf = canonical.removeprefix("decoder.").rpartition(".")
    whole = {"embed": f"{stem}embed_tokens", "norm": f"{stem}norm", "head": "lm_head"}
    if path in whole:
        return Origin(f"{whole[path]}.{leaf}")
    _, index, *parts = path.split(".")
    known = _NAMES | dict(names or {})
    modules = [known.get(p, p) for p in parts]
    base = f"{stem}layers.{index}."
    if parts[-1] in _FUSED.get(backbone(hub), ()):
        name, rows = _fused(parts[-1], config.text)
        return Origin(f"{base}{modules[0]}.{name}.{leaf}", rows=rows)
    return Origin(f"{base}{'.'.join(modules)}.{leaf}")


def read_gate(whole: Keys, config: HubConfig) -> GateConfig | None:
    """The pair gate of a checkpoint that this package exported."""
    gate = config.get(GATE_KEY)
    return None if gate is None else GateConfig.from_dict(gate, f"{whole.where}.{GATE_KEY}")


def read_tokens(source: Source, whole: Keys, text: Keys, *, image: int | None = None) -> TokenConfig:
    """The tokens with a meaning.

    What ends an answer is asked of generation_config.json, then config.json, then the tokenizer's own files; the other
    special tokens are those of the tokenizer.

    Args:
        source: the checkpoint.
        whole, text: its whole configuration, and the text part.
        image: id of the placeholder of an image.

    Raises:
        ConfigError: when nothing says what ends an answer, or a file of the tokenizer is malformed.
    """
    generation = Keys(source.generation, str(source.path / "generation_config.json"))
    stop = next((ids for keys in (generation, text, whole) if (ids := _ends(keys))), ())
    special: dict[str, Any]
    if not (source.path / directory.TOKENIZER).is_file():
        # A GGUF file, whose tokenizer's settings became those of the configuration, or a configuration by itself;
        # a folder without the tokenizer is refused where the model is built.
        special = {name: text.get(f"{name}_token_id", int, None) for name in ("bos", "pad")}
    else:
        tokenizer = read_tokenizer_settings(source.path, source.config)
        special = {name: tokenizer.id(f"{name}_token") for name in ("bos", "pad")}
        special |= {"named": tokenizer.named, "added": tokenizer.added}
        end = tokenizer.id("eos_token")
        stop = stop or (() if end is None else (end,))
    if not stop:
        raise ConfigError(f"{whole.where}: eos_token_id is given nowhere; without it an answer has no end")
    return TokenConfig(stop, image, **special)


def _ends(keys: Keys) -> tuple[int, ...]:
    """`eos_token_id`, one or several; none where it is absent, null or an empty list."""
    ids = keys.get("eos_token_id", (int, list), [])
    ids = [i for i in ids if i is not None] if isinstance(ids, list) else [ids]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise ConfigError(f"{keys.where}: eos_token_id should be a number or a list of numbers, found {ids!r}")
    return tuple(ids)


def _fused(projection: str, text: TextConfig) -> tuple[str, tuple[int, int]]:
    """Where Phi-3 and GLM-4 stack queries, keys and values, and the two halves of the MLP."""
    if projection in ("gate_proj", "up_proj"):
        first = text.intermediate_size * (projection == "up_proj")
        return "gate_up_proj", (first, first + text.intermediate_size)
    queries, keys = text.num_heads * text.head_dim, text.num_kv_heads * text.head_dim
    first = {"q_proj": 0, "k_proj": queries, "v_proj": queries + keys}[projection]
    return "qkv_proj", (first, first + (queries if projection == "q_proj" else keys))


def _sliding(text: Keys, kind: str, layers: int) -> dict[str, Any]:
    """The sliding window: of every layer, or (Qwen) of those in `layer_types` or from `max_window_layers` on."""
    window = text.get("sliding_window", int, None)
    if kind.startswith("qwen") and not text.get("use_sliding_window", bool, False):
        window = None
    if kind == "llama" and window is not None:
        raise ConfigError(f"{text.where}: sliding_window {window} with model type 'llama', which has none")
    types = text.get("layer_types", list, None)
    if types is None:
        first = text.get("max_window_layers", int, 28) if kind.startswith("qwen") else 0
        if first < 0:
            raise ConfigError(f"{text.where}: max_window_layers is {first}; it cannot be negative")
        types = ["full_attention"] * min(first, layers) + ["sliding_attention"] * (layers - first)
        types = types if window is not None else ["full_attention"] * layers
    sliding = tuple(i for i, name in enumerate(types) if name == "sliding_attention")
    if len(types) != layers or len(sliding) + types.count("full_attention") != layers:
        raise ConfigError(
            f"{text.where}: layer_types must name full_attention or sliding_attention for {layers} layers"
        )
    if sliding and window is None:
        raise ConfigError(f"{text.where}: layer_types has sliding_attention, but no sliding_window is in use")
    if window is None:
        return {}
    if not kind.startswith("qwen") and len(sliding) < layers:
        raise ConfigError(f"{text.where}: layer_types leaves layers without a window, which {kind!r} does not")
    if not sliding:
        return {}
    return {"sliding_window": window, "sliding_layers": "all" if len(sliding) == layers else sliding}
