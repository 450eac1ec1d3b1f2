"""Find a model by path or Hub id and open it, whichever kind it is: rave directory, checkpoint folder, GGUF file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.links import check_links
from rave_mlx.convert.canonical import canonical
from rave_mlx.convert.gguf import read_gguf
from rave_mlx.convert.hub import HUB_ID, download, download_settings, read_headers
from rave_mlx.convert.notes import print_note
from rave_mlx.convert.source import SUGGESTED, Source, read_folder
from rave_mlx.convert.stored import Stored, read_rave_directory
from rave_mlx.errors import ModelError
from rave_mlx.models.lmm import LMM

MODEL_VARIABLE = "RAVE_MLX_MODEL"
"""Environment variable that names the model to open where none is given."""
_ADAPTER_CONFIG = "adapter_config.json"
"""What an adapter's folder has, of this package, PEFT or mlx-lm."""


def find(wanted: str | os.PathLike[str] | None, revision: str | None = None) -> Path:
    """The local folder (or GGUF file) of a model: a Hub id's snapshot is downloaded unless it is in the cache.

    Args:
        wanted: path or Hub id; None for what `MODEL_VARIABLE` names, and without it the built-in model.
        revision: branch, tag or commit of a Hub id.

    Raises:
        ModelError: when there is no such model, with what to do.
    """
    if wanted is None:
        wanted = os.environ.get(MODEL_VARIABLE) or directory.BUILT_IN
    path = Path(wanted).expanduser()
    if path.is_dir():
        if not (path / directory.CONFIG).is_file():
            raise ModelError(_no_model(path))
        check_links(path)
        return path
    name = str(wanted)
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.exists():
        raise ModelError(f"{path}: is a file; give the model's directory, or a .gguf file")
    if path.suffix == ".gguf":
        raise ModelError(f"{path}: no such file")
    if not HUB_ID.fullmatch(name):
        raise ModelError(f"{name}: no such model directory, and not a Hub id like {SUGGESTED}")
    return download(name, revision)


def _no_model(folder: Path) -> str:
    """What is wrong with a folder that holds no model."""
    if (folder / _ADAPTER_CONFIG).is_file():
        return f"{folder}: is an adapter; give the model that it belongs to, and this with --adapter (adapter=)"
    return f"{folder}: no {directory.CONFIG}; this is not a model directory"


def _hub_id(wanted: str | os.PathLike[str]) -> str | None:
    """`wanted` if it is a Hub id and no local path."""
    name = str(wanted)
    path = Path(wanted).expanduser()
    return name if HUB_ID.fullmatch(name) and path.suffix != ".gguf" and not path.exists() else None


def read(path: Path, tensors: Mapping[str, mx.array] | None = None, mmproj: Path | None = None) -> Source:
    """A foreign checkpoint under its own names, from a folder or a GGUF file.

    Args:
        path: the folder or the file.
        tensors: instead of those in its weight files.
        mmproj: the vision tower of a GGUF model; None takes the one beside it.

    Raises:
        ConfigError, ModelError: when a file is missing or malformed.
    """
    if path.is_file():
        return read_gguf(path, mmproj)
    _refuse_projector(path, mmproj)
    return read_folder(path, tensors)


def _refuse_projector(path: Path, mmproj: Path | None) -> None:
    if mmproj is not None:
        raise ModelError(f"{path}: mmproj goes with a GGUF file; other models hold their vision tower themselves")


def open_stored(path: Path, tensors: Mapping[str, mx.array] | None = None, mmproj: Path | None = None) -> Stored:
    """A model of either kind with canonical names and lazy tensors.

    Args:
        path: a rave directory, a checkpoint folder or a GGUF file.
        tensors: instead of those in its weight files.
        mmproj: the vision tower of a GGUF model; None takes the one beside it.

    Raises:
        ConfigError, ModelError: when it is incomplete, malformed or not supported.
    """
    if directory.is_rave_directory(path):
        _refuse_projector(path, mmproj)
        return read_rave_directory(path, tensors)
    return canonical(read(path, tensors, mmproj))


def open_headers(wanted: str | os.PathLike[str], revision: str | None = None, mmproj: Path | None = None) -> Stored:
    """The same with tensors that stand for their shapes only where the weights are on the Hub: nothing is downloaded
    but settings and headers.

    Args:
        wanted: path or Hub id.
        revision: branch, tag or commit of a Hub id.
        mmproj: see `read`.

    Raises:
        ConfigError, ModelError: as `find` and `open_stored`.
    """
    name = _hub_id(wanted)
    if name is None:
        return open_stored(find(wanted, revision), mmproj=mmproj)
    folder = download_settings(name, revision)
    entries = read_headers(name, folder)
    return open_stored(folder, {key: mx.zeros(entry.shape, entry.dtype) for key, entry in entries.items()})


def open_model(folder: Path, mmproj: Path | None = None) -> tuple[LMM, dict[str, mx.array]]:
    """A model without weights, and the lazy canonical tensors to fill it with (`checkpoint.build.fill`).

    Raises:
        ConfigError, ModelError: as `open_stored`.
    """
    stored = open_stored(folder, mmproj=mmproj)
    for note in stored.notes:
        print_note(note)
    return stored.lmm, dict(stored.tensors)
