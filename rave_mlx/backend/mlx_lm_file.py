"""Single files of mlx-lm: importing the package would import transformers as well, which takes seconds."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from types import ModuleType


@cache
def mlx_lm_file(name: str) -> ModuleType:
    """A module of mlx-lm that needs nothing else of it, loaded by itself.

    Args:
        name: after `mlx_lm.`, as "sample_utils" or "models.gated_delta".
    """
    package = importlib.util.find_spec("mlx_lm")
    assert package is not None
    assert package.submodule_search_locations
    whole = f"mlx_lm.{name}"
    if whole in sys.modules:
        return sys.modules[whole]
    file = f"{package.submodule_search_locations[0]}/{name.replace('.', '/')}.py"
    spec = importlib.util.spec_from_file_location(whole, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
