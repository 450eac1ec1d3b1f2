"""The settings of a GGUF file, with their types; what is not known and could change the model is refused by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rave_mlx.errors import ModelError

_OFF = (0, 0.0, False)
_UNSCALED = (0, 1, 0.0, 1.0)
NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        (
            "expert_count", "expert_used_count", "expert_shared_count", "expert_group_count", "expert_group_used_count",
            "expert_feed_forward_length", "expert_shared_feed_forward_length", "expert_chunk_feed_forward_length",
            "expert_weights_norm", "expert_gating_func", "experts_per_group", "interleave_moe_layer_step",
            "moe_every_n_layers", "leading_dense_block_count", "nextn_predict_layers", "n_deepstack_layers",
            "attn_logit_softcapping", "final_logit_softcapping", "router_logit_softcapping", "use_parallel_residual",
            "attention.max_alibi_bias", "attention.clamp_kqv", "attention.scale", "attention.shared_kv_layers",
            "attention.sliding_window_pattern", "attention.key_length_mla", "attention.value_length_mla",
            "attention.temperature_length", "attention.temperature_scale", "rope.scaling.yarn_log_multiplier",
            "pooling_type",
        ),
        _OFF,
    ),
    **dict.fromkeys(
        (
            "expert_weights_scale", "logit_scale", "residual_scale", "embedding_scale", "attention.output_scale",
            "rope.scale_linear", "rope.scaling.alpha", "rope.scaling.yarn_ext_factor",
        ),
        _UNSCALED,
    ),
    "attention.causal": (True,),
    "tensor_data_layout": ("Meta AI original pth",),
}  # fmt: skip
"""Settings that mean nothing with these values, by their name without the architecture's: no experts, no cap, ..."""
HARMLESS = ("vocab_size", "rope.scaling.finetuned", "attention.layer_norm_epsilon")
"""Settings that change nothing in these architectures: the embedding says how many tokens there are."""


class Settings:
    """Values by key; `prefix` precedes every key, and errors name the whole key and the file."""

    def __init__(self, path: Path, values: Mapping[str, Any], prefix: str):
        self.path = path
        self.prefix = prefix
        self._values = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def refuse_unknown(self, known: Collection[str], neutral: Mapping[str, tuple[Any, ...]] = NEUTRAL) -> None:
        """Refuse keys that are neither known nor set to a value that means nothing."""
        strange = [
            f"{self.prefix}{key}"
            for key, value in self._values.items()
            if key not in known and not _among(value, neutral.get(key, ()))
        ]
        if strange:
            raise ModelError(f"{self.path}: settings that are not supported: {', '.join(sorted(strange))}")

    def need(self, *keys: str) -> None:
        """Refuse a file that lacks one of these keys."""
        missing = [self.prefix + key for key in keys if key not in self]
        if missing:
            raise ModelError(f"{self.path}: {', '.join(missing)} is missing; download it again")

    def size(self, key: str, default: int | None = None, *, layers: int | None = None) -> int:
        """A number of things, 1 at least. A list with an entry for every layer counts if all are the same."""
        value = self._values.get(key, default)
        if isinstance(value, list) and value and layers in (None, len(value)):
            if any(other != value[0] for other in value):
                raise self._error(key, "differs from layer to layer, which is not supported")
            value = value[0]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._error(key, f"is {_shown(value)}, which makes no sense; download it again")
        return value

    def integer(self, key: str, default: int) -> int:
        """A number that may be 0."""
        value = self._values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._error(key, f"is {_shown(value)}, which makes no sense; download it again")
        return value

    def number(self, key: str, default: float) -> float:
        """A number with a fraction."""
        value = self._values.get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self._error(key, f"is {_shown(value)}, which is no number; download it again")
        return float(value)

    def numbers(self, key: str) -> list[Any]:
        """A list of numbers, empty where there is none."""
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(type(x) in (int, float) for x in value):
            raise self._error(key, f"is {_shown(value)}, which is no list of numbers; download it again")
        return value

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self._values.get(key, default)
        if not isinstance(value, str):
            raise self._error(key, f"is {_shown(value)}, which is no text; download it again")
        return value

    def flag(self, key: str) -> bool:
        """A switch, off where it is not given."""
        value = self._values.get(key, False)
        if not isinstance(value, bool):
            raise self._error(key, f"is {_shown(value)}, which is neither true nor false; download it again")
        return value

    def _error(self, key: str, problem: str) -> ModelError:
        return ModelError(f"{self.path}: {self.prefix}{key} {problem}")


def _among(value: Any, choices: tuple[Any, ...]) -> bool:
    """Whether a value, or every value of a list, is one of these."""
    return all(x in choices for x in value) if isinstance(value, list) else value in choices


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
