"""Open an adapter of any kind: this package's own, PEFT's, mlx-lm's. What is foreign is translated for its base."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.checkpoint import adapters, build, directory
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.convert.adapters.base import Base, open_base
from rave_mlx.convert.adapters.from_mlx import from_mlx, is_mlx
from rave_mlx.convert.adapters.from_peft import from_peft
from rave_mlx.convert.notes import print_note
from rave_mlx.convert.open import find, open_model
from rave_mlx.errors import ModelError

Note = Callable[[str], None]

_COMMIT = re.compile(r"[0-9a-f]{7,40}")


def is_adapter(place: str | os.PathLike[str]) -> bool:
    """Whether a path is the directory of an adapter, of whichever package."""
    folder = Path(place).expanduser()
    return (folder / adapters.CONFIG).is_file() and not (folder / directory.CONFIG).is_file()


def open_adapter(
    adapter: str | os.PathLike[str], base: Path, note: Note = print_note
) -> tuple[AdapterConfig, dict[str, mx.array]]:
    """The configuration and the lazy canonical tensors of an adapter of any kind.

    Args:
        adapter: its directory.
        base: folder or file of the model that it is for.
        note: called with a line about what a person should know.

    Raises:
        ConfigError: for an adapter that does something else than what is supported; the setting is named.
        ModelError: for one that is incomplete, or of another model.
    """
    folder = Path(adapter).expanduser()
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such adapter directory")
    data = directory.read_json(folder / adapters.CONFIG)
    if "peft_type" in data:
        model = open_base(base)
        _warn_of_other_base(data.get("base_model_name_or_path"), data.get("revision"), model, folder, note)
        return from_peft(folder, model)
    if is_mlx(data):
        model = open_base(base)
        _warn_of_other_base(data.get("model"), None, model, folder, note)
        return from_mlx(folder, model)
    return adapters.read_config(folder), adapters.read_weights(folder)


def import_adapter(
    adapter: str | os.PathLike[str],
    base: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    revision: str | None = None,
    note: Note = print_note,
) -> Path:
    """Write an adapter of PEFT or mlx-lm as an adapter directory of this package.

    Args:
        adapter: its directory.
        base: the model that it is for: a rave directory, a checkpoint or a Hub id; None as for `load`.
        out: the directory to create.
        revision: branch, tag or commit of a Hub id.
        note: called with a line about what a person should know.

    Raises:
        ConfigError, ModelError: as `open_adapter`; when `out` exists; for an adapter that is this package's already.
    """
    folder, target = Path(adapter).expanduser(), Path(out)
    directory.check_new(target)
    data = directory.read_json(folder / adapters.CONFIG)
    if "peft_type" not in data and not is_mlx(data):
        raise ModelError(f"{folder}: is no adapter of PEFT or mlx-lm; one of rave-mlx is used as it is (--adapter)")
    config, weights = open_adapter(folder, find(base, revision), note)
    with directory.new_directory(target) as part:
        adapters.write(part, config, weights)
    return target


def check_fits(base: Path, folder: Path, config: AdapterConfig, weights: dict[str, mx.array]) -> None:
    """Open the base and put the adapter on it: the check that the two belong together.

    Raises:
        ModelError: when they do not.
    """
    backend.prepare()
    lmm, tensors = open_model(base)
    build.fill(lmm, tensors, None, str(base))
    adapters.put_on(lmm, config, weights, folder)


def _warn_of_other_base(name: object, revision: object, base: Base, folder: Path, note: Note) -> None:
    """Say so when an adapter names another model than the one that it is put on. Names alone prove nothing."""
    known = {_last(other) for other in (base.name, str(base.path), str(base.path.resolve()))}
    if isinstance(name, str) and name and _last(name) not in known:
        note(f"{folder}: says that it was trained on {name}; it is put on {base.name}")
        return
    named = isinstance(revision, str) and _COMMIT.fullmatch(revision) is not None
    if named and base.commit is not None and not base.commit.startswith(str(revision)):
        note(f"{folder}: says that it was trained on commit {revision}; {base.name} is here at {base.commit}")


def _last(name: str) -> str:
    """The part of a path or Hub id by which models are called."""
    return name.rstrip("/\\").replace("\\", "/").rpartition("/")[2].lower()
