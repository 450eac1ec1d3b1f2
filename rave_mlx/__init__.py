"""Vision-language models that read: gated visual attention (RAVE, arXiv 2605.18359) on MLX.

    import rave_mlx

    lmm = rave_mlx.load()                                        # the built-in model
    chat = rave_mlx.Session(lmm)
    for piece in chat.send("What is the total?", images=["receipt.png"]):
        print(piece.text, end="")

Names are imported on first use, so that `import rave_mlx` costs milliseconds.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from rave_mlx import backend, convert, evaluate, look
    from rave_mlx.api import generate, load, stream
    from rave_mlx.chat.session import Session
    from rave_mlx.config import LMMConfig
    from rave_mlx.documents.extraction.extract import extract
    from rave_mlx.documents.transcription.read import read
    from rave_mlx.errors import RaveError
    from rave_mlx.models.lmm import LMM

__version__ = "0.1.0"
__all__ = [
    "LMM",
    "LMMConfig",
    "RaveError",
    "Session",
    "backend",
    "convert",
    "evaluate",
    "extract",
    "generate",
    "load",
    "look",
    "read",
    "stream",
]

_MODULES = ("backend", "convert", "evaluate", "look")
_HOMES = {
    "LMM": "rave_mlx.models.lmm",
    "LMMConfig": "rave_mlx.config",
    "RaveError": "rave_mlx.errors",
    "Session": "rave_mlx.chat.session",
    "extract": "rave_mlx.documents.extraction.extract",
    "generate": "rave_mlx.api",
    "load": "rave_mlx.api",
    "read": "rave_mlx.documents.transcription.read",
    "stream": "rave_mlx.api",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return _import_module(f"rave_mlx.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'rave_mlx' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(_import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
