"""What models and adapters are called, from what stands on the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rave_mlx.errors import ModelError, UsageError

BUILT_IN_NAME = "rave-mlx-builtin"
_ADAPTER_NAME = re.compile(r"[\w.-]{1,64}")


def model_name(given: str | None, model: str | None) -> str:
    """What clients call a model.

    Args:
        given: with --name.
        model: with --model: a folder, a GGUF file or a Hub id.
    """
    if given is not None:
        return given
    from rave_mlx.convert.open import MODEL_VARIABLE

    model = model or os.environ.get(MODEL_VARIABLE)
    if model is None:
        return BUILT_IN_NAME
    path = Path(model).expanduser()
    if not path.exists():
        return model
    return (path.stem if path.is_file() else path.resolve().name).replace(":", "-") or BUILT_IN_NAME


def parse_adapters(given: Sequence[str]) -> dict[str, str]:
    """Folders by name, from NAME=DIR; a folder by itself is called as it is.

    Raises:
        UsageError: for a name that cannot be one, or is given twice.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals:
            name, folder = Path(text).expanduser().resolve().name, text
        if not _ADAPTER_NAME.fullmatch(name) or not folder:
            raise UsageError(f"--adapter {text}: write NAME=DIR; a name has letters, digits, points and dashes")
        if name in found:
            raise UsageError(f"--adapter {name} is given twice; call one of them differently")
        found[name] = folder
    return found


def check_adapters(adapters: Mapping[str, str]) -> None:
    """Refuse folders that are not there, before the server starts.

    Raises:
        ModelError: naming the folder.
    """
    for name, folder in adapters.items():
        if not Path(folder).expanduser().is_dir():
            raise ModelError(f"--adapter {name}={folder}: no such folder")
