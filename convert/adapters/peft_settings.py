"""The settings of a PEFT adapter (`adapter_config.json`): what is plain LoRA or DoRA, and what is refused by name.

As in peft 0.21: `LoraConfig` and the layers in `peft.tuners.lora`. Whatever that reads and this does not, and whatever
later versions add, must be unset.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rave_mlx.checkpoint import directory
from rave_mlx.convert.keys import Keys
from rave_mlx.errors import ConfigError

_REFUSED: dict[str, str] = {
    "alora_invocation_tokens": "such an adapter acts only after these tokens",
    "arrow_config": "it routes between several adapters",
    "enable_lora": "it adapts parts of projections",
    "kasa_config": "it changes the base model's weights",
    "layer_replication": "it repeats layers of the base model",
    "megatron_config": "its layers are Megatron's",
    "monteclora_config": "its factors are sampled",
    "target_parameters": "it adapts the weights of experts; merge it into its base with peft and convert the result",
    "use_bdlora": "its factors are block-diagonal",
    "use_qalora": "it averages groups of inputs",
}
"""Settings that change what an adapter computes, with what they do."""

_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Values of init_lora_weights that leave the base model as it is."""

_HARMLESS = frozenset(
    {"peft_type", "task_type", "auto_mapping", "peft_version", "inference_mode", "runtime_config", "merge_weights"}
    | {"lora_dropout", "megatron_core", "qalora_group_size", "fan_in_fan_out", "ensure_weight_tying"}
    | {"loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"}
)
"""Settings of training, of initialization and of the record; none changes an answer. `fan_in_fan_out` is switched off
by peft itself for linear layers, VeLoRA changes the backward pass only, and tied updates are saved twice."""

_READ = frozenset(
    {"r", "lora_alpha", "use_rslora", "use_dora", "lora_bias", "bias", "rank_pattern", "alpha_pattern"}
    | {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"}
    | {"trainable_token_indices", "init_lora_weights", "base_model_name_or_path", "revision"}
)


@dataclass(frozen=True)
class PeftSettings:
    """What a PEFT adapter of kind LoRA says.

    Attributes:
        where: its file, for messages.
        rank, alpha: of modules that no pattern names.
        ranks, alphas: by regular expression of (the end of) a module's name; the first that fits counts.
        root: rsLoRA: alpha is divided by the root of the rank (arXiv 2312.03732).
        dora: weight decomposition (arXiv 2402.09353).
        update_bias: every update adds a vector of its own.
        dropout: share of inputs left out in training.
        targets, excluded: adapted modules: a regular expression, or names; None when not given.
        layers, layers_pattern: of the targets, those of these layers only.
        saved: modules that the adapter brings whole.
        tokens: rows of tables that it brings, by module; "" is the model's embedding.
        model, revision: what it says about its base.
    """

    where: Path
    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    root: bool
    dora: bool
    update_bias: bool
    dropout: float
    targets: str | tuple[str, ...] | None
    excluded: str | tuple[str, ...] | None
    layers: tuple[int, ...] | None
    layers_pattern: tuple[str, ...]
    saved: tuple[str, ...]
    tokens: Mapping[str, tuple[int, ...]]
    model: str | None
    revision: str | None

    def rank_of(self, module: str) -> int:
        """The rank of a module, by transformers' name of it."""
        rank: int = self._fitting(self.ranks, module, self.rank)
        return rank

    def scale_of(self, module: str, rank: int) -> float:
        """What the product of a module's factors is multiplied with."""
        alpha: float = self._fitting(self.alphas, module, self.alpha)
        return alpha / math.sqrt(rank) if self.root else alpha / rank

    def adapts(self, module: str) -> bool:
        """Whether `target_modules` names a module and nothing takes it out (peft's check_target_module_exists)."""
        if self.targets is None or self._named(self.excluded, module):
            return False
        if any(self._match(rf"(^|.*\.){saved}($|\..*)", module) for saved in self.saved):
            return False
        if not self._named(self.targets, module):
            return False
        if isinstance(self.targets, str) or self.layers is None:
            return True
        patterns = self.layers_pattern or (r"[^.]*",)
        found = (self._match(rf"(?:^|.*?\.){p}\.(?P<index>\d+)\.", module) for p in patterns)
        index = next((m["index"] for m in found if m), None)
        return index is not None and int(index) in self.layers

    def _named(self, names: str | tuple[str, ...] | None, module: str) -> bool:
        if isinstance(names, str):
            return self._match(rf"(?:{names})\Z", module) is not None
        return any(module == name or module.endswith(f".{name}") for name in names or ())

    def _fitting(self, patterns: Mapping[str, Any], module: str, default: Any) -> Any:
        fits = (value for key, value in patterns.items() if self._match(rf"(.*\.)?({key})$", module))
        return next(fits, default)

    def _match(self, pattern: str, name: str) -> re.Match[str] | None:
        try:
            return re.match(pattern, name)
        except re.error as error:
            raise ConfigError(f"{self.where}: {pattern!r} is not a regular expression ({error})") from None


def read_settings(file: Path) -> PeftSettings:
    """Read the settings of a PEFT adapter.

    Raises:
        ConfigError: for another kind of adapter than LoRA, and for a setting that is not supported.
    """
    data = directory.read_json(file)
    if data.get("peft_type") != "LORA":
        raise ConfigError(f"{file}: peft_type {data.get('peft_type')!r} is not supported, only 'LORA'")
    _refuse(data, file)
    keys = Keys(data, str(file))
    layers = keys.get("layers_to_transform", (int, list), None)
    pattern = keys.get("layers_pattern", (str, list), None) or []
    settings = PeftSettings(
        where=file,
        rank=keys.get("r", int, 8),
        alpha=keys.get("lora_alpha", float, 8.0),
        ranks=_numbers(keys, "rank_pattern", int),
        alphas=_numbers(keys, "alpha_pattern", float),
        root=keys.get("use_rslora", bool, False),
        dora=keys.get("use_dora", bool, False),
        update_bias=keys.get("lora_bias", bool, False),
        dropout=keys.get("lora_dropout", float, 0.0),
        targets=_names(keys, "target_modules"),
        excluded=_names(keys, "exclude_modules"),
        layers=None if layers is None or layers == [] else tuple(layers) if isinstance(layers, list) else (layers,),
        layers_pattern=(pattern,) if isinstance(pattern, str) else tuple(pattern),
        saved=tuple(keys.get("modules_to_save", list, None) or ()),
        tokens=_tokens(keys),
        model=keys.get("base_model_name_or_path", str, None),
        revision=keys.get("revision", str, None),
    )
    if min(settings.rank, *settings.ranks.values(), 1) < 1:
        raise ConfigError(f"{file}: r and the ranks of rank_pattern must be at least 1")
    return settings


def _refuse(data: Mapping[str, Any], file: Path) -> None:
    """Refuse what is not plain LoRA or DoRA, by the setting's name."""
    for key, reason in _REFUSED.items():
        value = data.get(key)
        if value is not None and value is not False and value != []:
            raise ConfigError(f"{file}: {key} {_short(value)} is not supported: {reason}")
    start = data.get("init_lora_weights", True)
    if (start.lower() if isinstance(start, str) else start) not in _PLAIN_STARTS:
        raise ConfigError(
            f"{file}: init_lora_weights {_short(start)} is not supported: such training begins by changing the base "
            "model's weights, which the adapter does not hold; save it as a plain difference (save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...)), or merge it into its base with peft"
        )
    if data.get("bias", "none") not in ("none", "all", "lora_only"):
        raise ConfigError(f"{file}: bias {_short(data['bias'])} is not supported, only 'none', 'all' or 'lora_only'")
    unknown = sorted(
        key
        for key, value in data.items()
        if key not in _READ and key not in _HARMLESS and key not in _REFUSED and not _unset(value)
    )
    if unknown:
        raise ConfigError(
            f"{file}: {unknown[0]} {_short(data[unknown[0]])} is not supported: what this setting changes is not known "
            "here; merge the adapter into its base with peft and convert the result"
        )


def _unset(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _names(keys: Keys, name: str) -> str | tuple[str, ...] | None:
    found = keys.get(name, (str, list), None)
    return tuple(found) if isinstance(found, list) else found


def _numbers(keys: Keys, name: str, kind: type) -> dict[str, Any]:
    found = keys.get(name, dict, None) or {}
    inner = Keys(found, f"{keys.where}: {name}")
    return {pattern: inner.need(pattern, kind) for pattern in found}


def _tokens(keys: Keys) -> dict[str, tuple[int, ...]]:
    found = keys.get("trainable_token_indices", (list, dict), None) or {}
    tables = {"": found} if isinstance(found, list) else found
    for table, ids in tables.items():
        plain = isinstance(ids, list) and all(type(i) is int for i in ids)
        if not plain or len(set(ids)) < len(ids):
            raise ConfigError(f"{keys.where}: trainable_token_indices of {table or 'the embedding'}: not distinct ids")
    return {table: tuple(ids) for table, ids in tables.items() if ids}
