"""GGUF files (llama.cpp's format): settings, tokenizer and weights in one file, a vision tower in a second one.

The container and the block formats are read by the `gguf` package, which this folder needs (extra `gguf`).
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from rave_mlx.convert.source import Source
from rave_mlx.errors import ModelError


def read_gguf(path: Path, mmproj: Path | None = None) -> Source:
    """Open a GGUF file as a checkpoint of transformers would be opened.

    Args:
        path: the text model's file; of a model in several files, the first.
        mmproj: the file with the vision tower and the projector (llama.cpp's `--mmproj`); None looks for one beside
            the text model.

    Raises:
        ModelError: when a file is incomplete, or has an architecture, settings, tensors or a tokenizer that are not
            supported, or the `gguf` package is not installed.
    """
    if find_spec("gguf") is None:
        raise ModelError(f"{path}: the gguf package reads GGUF files: pip install 'rave-mlx[gguf]'")
    from rave_mlx.convert.gguf.source import open_gguf

    return open_gguf(path, mmproj)
