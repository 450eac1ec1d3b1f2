"""Single files of mlx-lm: importing the package would import transformers as well, which takes seconds."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

_PRIVATE = "_rave_mlx_lm"
"""A package with mlx-lm's folders and without what its `__init__.py` files do."""


@cache
def mlx_lm_file(name: str) -> ModuleType:
    """A module of mlx-lm, loaded with those that it imports itself and no others.

    Its classes are others than those that `import mlx_lm` gives.

    Args:
        name: after `mlx_lm.`, as "sample_utils" or "models.gated_delta".
    """
    found = importlib.util.find_spec("mlx_lm")
    assert found is not None
    assert found.submodule_search_locations
    package, folder = _PRIVATE, Path(found.submodule_search_locations[0])
    for part in (*name.split(".")[:-1], ""):
        if package not in sys.modules:
            sys.modules[package] = ModuleType(package)
            sys.modules[package].__path__ = [str(folder)]
        package, folder = f"{package}.{part}", folder / part
    return importlib.import_module(f"{_PRIVATE}.{name}")
