"""Is a PEFT adapter whole? What its settings name has to be among its tensors: peft would start anew what is not."""

from __future__ import annotations

from pathlib import Path

from rave_mlx.checkpoint.adapter_config import EMBED, HEAD
from rave_mlx.convert.adapters.base import Base
from rave_mlx.convert.adapters.peft_files import EMBEDDING, INNER, PREFIX, TOKENS, Named, own_name, prefixes
from rave_mlx.convert.adapters.peft_settings import PeftSettings
from rave_mlx.errors import ModelError

_SHOWN = 10


def check_complete(names: list[Named], base: Base, settings: PeftSettings, folder: Path) -> None:
    """Refuse an adapter of which tensors are missing.

    Raises:
        ModelError: naming them as peft would.
    """
    own = prefixes(names, base.family)
    missing = [
        *_missing_leaves(names, settings),
        *_missing_modules(names, base, settings, own),
        *_missing_weights(names, base, settings, own),
        *_missing_rows(names, settings),
    ]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ModelError(
            f"{folder}: tensors are missing: {', '.join(sorted(missing)[:_SHOWN])}{more}; the adapter is incomplete, "
            "download or save it again"
        )


def _missing_leaves(names: list[Named], settings: PeftSettings) -> list[str]:
    """Factors without their other half, and what goes with them."""
    found: dict[str, set[str]] = {}
    for named in names:
        if named.leaf and named.leaf != TOKENS:
            found.setdefault(named.own, set()).add(named.leaf)
    usual = {"lora_A.weight", "lora_B.weight"}
    usual |= {"lora_magnitude_vector"} if settings.dora else set()
    usual |= {"lora_B.bias"} if settings.update_bias else set()
    return [
        f"{PREFIX}{module}.{leaf}"
        for module, leaves in found.items()
        for leaf in (set(EMBEDDING) if leaves & set(EMBEDDING) else usual) - leaves
    ]


def _missing_modules(names: list[Named], base: Base, settings: PeftSettings, own: dict[str, str]) -> list[str]:
    """Modules that target_modules names, in a part of the model (decoder, tower, connector) that is adapted at all.

    A part without any update was left out on purpose, or did not exist when the adapter was made.
    """
    adapted = {named.module for named in names if named.leaf and named.leaf != TOKENS}
    parts = {piece.name.partition(".")[0] for module in adapted for piece in base.modules[module]}
    linear = isinstance(settings.targets, str) and settings.targets.lower() == "all-linear"
    missing = []
    for module, pieces in base.modules.items():
        piece = pieces[0]
        if piece.name.partition(".")[0] not in parts or module in adapted:
            continue
        if linear:
            targeted = piece.name not in (EMBED, HEAD) and len(piece.outside) == 2
        else:
            targeted = settings.adapts(own_name(module, own))
        if targeted:
            leaf = "lora_embedding_A" if piece.name == EMBED else "lora_A.weight"
            missing.append(f"{PREFIX}{own_name(module, own)}.{leaf}")
    return missing


def _missing_weights(names: list[Named], base: Base, settings: PeftSettings, own: dict[str, str]) -> list[str]:
    """Weights of the modules in modules_to_save."""
    found = {named.weight for named in names if not named.leaf}
    missing = []
    for weight in base.weights:
        module, _, leaf = weight.rpartition(".")
        called = own_name(module, own)
        parents = [called[:i] for i, letter in enumerate(called) if letter == "."] + [called]
        if weight not in found and any(p.endswith(s) for p in parents for s in settings.saved):
            missing.append(f"{PREFIX}{called}.{leaf}".removesuffix(INNER))
    return missing


def _missing_rows(names: list[Named], settings: PeftSettings) -> list[str]:
    """Tables of trainable_token_indices; of tied ones the first has the rows of both."""
    tables = [named.own for named in names if named.leaf == TOKENS]
    if "" in settings.tokens or len(tables) == 1 < len(settings.tokens):
        return [] if tables else [TOKENS]
    return [f"{PREFIX}{name}.{TOKENS}" for name in settings.tokens if not any(t.endswith(name) for t in tables)]
