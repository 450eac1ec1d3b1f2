"""Which tensor of a checkpoint is which weight: names of any version of transformers, and of what wraps a model.

A training program that saves a wrapped model puts the wrapper's name before every tensor's (`module.` of
DistributedDataParallel, `_orig_mod.` of `torch.compile`, `base_model.model.` of PEFT, ...). That is taken off where
all tensors carry it. Adapters that were never merged are not weights, and are refused.
"""

from __future__ import annotations

import re

from rave_mlx.config import LMMConfig
from rave_mlx.convert.families.base import Family
from rave_mlx.convert.source import Source
from rave_mlx.errors import ModelError

_WRAPPERS = (
    "module.",
    "_orig_mod.",
    "_forward_module.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
    "base_model.model.",
    "model.",
)
"""What may stand before all names, in any order and number: of DistributedDataParallel and DeepSpeed, `torch.compile`,
Lightning's Fabric, FSDP, checkpointed layers, PEFT, and a module whose attribute `model` is the model."""
_INNER = re.compile(r"(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""The same of parts of a model; no weight is called so."""
_ADAPTER = re.compile(
    r"(?:.*\.)?(?:lora_[A-Za-z_]+|base_layer|modules_to_save|hada_[a-z0-9_]+|lokr_[a-z0-9_]+|vera_lambda_[a-z])(?:\..*)?"
)
"""Tensors of an adapter that is attached (LoRA and its kin), and of a layer below it."""
_BUFFER = re.compile(
    r"(?:.*\.)?(?:rotary_emb|rotary_pos_emb)\.(?:original_)?inv_freq|(?:.*\.)?rotary_emb\.(?:cos|sin)_cached"
    r"|(?:.*\.)?position_ids|(?:.*\.)?masked_bias"
)
"""Values that older versions of transformers saved and that follow from the configuration; it ignores them, too."""
_SHOWN = 10


def modern_names(source: Source, family: Family, config: LMMConfig) -> dict[str, str]:
    """Names in the checkpoint by those of transformers 5; what is no weight of the model is left out.

    Args:
        source: the checkpoint.
        family: its family.
        config: its canonical configuration.

    Raises:
        ModelError: for an adapter's tensors, weights that are there twice, and a wrapper's prefix on some names only.
    """
    weights = [name for name in source.tensors if not _BUFFER.fullmatch(name)]
    adapters = [name for name in weights if _ADAPTER.fullmatch(name)]
    if adapters:
        raise ModelError(
            f"{source.path}: holds an adapter that is not merged into its weights ({_some(adapters)}); merge it with "
            "peft (merge_and_unload) and save the model again, or give the base model and --adapter"
        )
    prefix = _wrapper(weights, family, family.origin("decoder.norm.weight", config, source.config).name)
    bare = [name for name in weights if not name.startswith(prefix)]
    if bare:
        raise ModelError(
            f"{source.path}: some tensors have {prefix!r} before their name and others do not ({_some(bare)}); save "
            "the model itself, without what wraps it"
        )
    names: dict[str, str] = {}
    for name in weights:
        modern = family.modern(_INNER.sub("", name.removeprefix(prefix)))
        if family.ignores(modern) or (family.left_out and family.left_out(modern, config, source.config)):
            continue
        if modern in names:
            raise ModelError(f"{source.path}: tensors {names[modern]} and {name} are the same weights, twice")
        names[modern] = name
    return names


def _wrapper(names: list[str], family: Family, anchor: str) -> str:
    """What a wrapper put before all names: found at `anchor`, a weight that every model has. Empty for none."""
    found: list[str] = []
    for name in names:
        rest = name
        while family.modern(_INNER.sub("", rest)) != anchor:
            wrapper = next((w for w in _WRAPPERS if rest.startswith(w)), None)
            if wrapper is None:
                break
            rest = rest.removeprefix(wrapper)
        else:
            found.append(name.removesuffix(rest))
    # A name without any prefix goes before one that only looks like it has one.
    return min(found, key=len, default="")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
