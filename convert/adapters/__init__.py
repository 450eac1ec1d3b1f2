"""Adapters of other packages, to and from this one's: PEFT in both directions, mlx-lm and mlx-vlm to be read.

PEFT knows modules by transformers' names, factors the other way round (`lora_A` (rank, in), `lora_B` (out, rank)) and
alpha = scale * rank. It has no place for pair gates and for the mutual mask: they travel in files of their own beside
PEFT's two. Without its mask an adapter reads worse, so exporting one says so.
"""

from __future__ import annotations

import os
from pathlib import Path

from rave_mlx.convert.adapters.opening import check_fits, import_adapter, is_adapter, open_adapter
from rave_mlx.convert.adapters.to_peft import export_peft

__all__ = ["check_fits", "export_peft", "import_adapter", "import_peft", "is_adapter", "open_adapter"]


def import_peft(peft_dir: str | os.PathLike[str], base: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Write a PEFT adapter (LoRA or DoRA) as an adapter directory; the inverse of `export_peft`.

    Args:
        peft_dir: directory of the adapter.
        base: the model that it is for: a rave directory, a checkpoint or a Hub id.
        out: the directory to create.

    Raises:
        ConfigError: for another kind of adapter, or a setting of it that is not supported; the setting is named.
        ModelError: for tensors that belong to nothing in `base`, or are missing.
    """
    return import_adapter(peft_dir, base, out)
