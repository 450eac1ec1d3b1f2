"""What a configuration says of experts, in the keys of Qwen's models."""

from __future__ import annotations

from typing import Any

from rave_mlx.config import ExpertsConfig
from rave_mlx.convert.keys import Keys
from rave_mlx.errors import ConfigError

NAMES = {"router": "gate", "shared": "shared_expert", "shared_gate": "shared_expert_gate"}
"""Names in transformers of the modules beside a layer's experts, by ours."""
_SHARED = ("shared_expert_intermediate_size", "n_shared_experts", "num_shared_experts")


def read_experts(text: Keys, *, normalize: bool | None, shared: bool = False) -> ExpertsConfig | None:
    """The experts of a decoder; None where no layer has any.

    Args:
        text: the part of the configuration that has the decoder's keys.
        normalize: whether the shares of the chosen experts are scaled to add up to 1; None where `norm_topk_prob` says
            it (by default they are not).
        shared: whether a layer with experts has an MLP for every token as well.

    Raises:
        ConfigError: for settings that are missing, malformed, or of parts that this kind of model does not have.
    """
    # transformers 5 writes the second name.
    count = text.get("num_experts", int, text.get("num_local_experts", int, None))
    if count is None:
        raise ConfigError(f"{text.where}: num_experts is missing")
    if count < 0:
        raise ConfigError(f"{text.where}: num_experts is {count}; it cannot be negative")
    if not shared:
        for name in _SHARED:
            if text.get(name, int, 0):
                raise ConfigError(f"{text.where}: {name} is given, and this kind of model has no shared experts")
    if normalize is not None:
        text.require("norm_topk_prob", normalize)
    layers = _layers(text, text.need("num_hidden_layers", int))
    if not layers or not count:
        return None
    fields: dict[str, Any] = {"shared_size": text.need(_SHARED[0], int)} if shared else {}
    chosen = text.need("num_experts_per_tok", int)
    if not 1 <= chosen <= count:
        raise ConfigError(f"{text.where}: num_experts_per_tok is {chosen}; it must be from 1 to num_experts {count}")
    return ExpertsConfig(
        count=count,
        chosen=chosen,
        intermediate_size=text.need("moe_intermediate_size", int),
        normalize=text.get("norm_topk_prob", bool, False) if normalize is None else normalize,
        layers="all" if len(layers) == text.need("num_hidden_layers", int) else layers,
        **fields,
    )


def _layers(text: Keys, count: int) -> tuple[int, ...]:
    """The layers with experts: every `decoder_sparse_step`-th, but for those in `mlp_only_layers`."""
    every, without = text.get("decoder_sparse_step", int, 1), text.get("mlp_only_layers", list, [])
    if every < 1:
        raise ConfigError(f"{text.where}: decoder_sparse_step is {every}; it must be at least 1")
    if not all(type(layer) is int for layer in without):
        raise ConfigError(f"{text.where}: mlp_only_layers should be a list of numbers, found {without!r}")
    return tuple(layer for layer in range(count) if (layer + 1) % every == 0 and layer not in without)
