"""Where rows come from: JSON lines, JSON, Parquet, or a data set of the Hub.

Parquet and the Hub go through the `datasets` package and the `pyarrow` it brings; both are part of the extra `train`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rave_mlx.errors import UsageError
from rave_mlx.inputs.text_files import read_rows
from rave_mlx.train.rows import DataError

_SPLITS = {"train": ("train",), "valid": ("valid", "validation", "val", "dev")}
_KINDS = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class RawRow:
    """A row as its file has it.

    Attributes:
        row: its columns; a `RowError` where they could not be parsed.
        where: its name for messages ("train.jsonl, line 3").
        folder: what its image paths are relative to.
    """

    row: Any
    where: str
    folder: Path


def has_split(source: str | Path, split: str) -> bool:
    """Whether a source has a split of this name; a single file has "train" only."""
    path = Path(source).expanduser()
    if path.is_dir():
        return bool(_files(path, split))
    return split == "train" if path.is_file() else _hub_split(str(source), split) is not None


def read_source(source: str | Path, split: str) -> Iterator[RawRow]:
    """All rows of a split, in order.

    Raises:
        UsageError: when there is no such source or split, or a package is missing that reads it.
        RowError: for a file that is damaged as a whole.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = _files(path, split)
        if not files:
            names = " or ".join(f"{name}{kind}" for name in _SPLITS.get(split, (split,)) for kind in _KINDS)
            raise UsageError(f"{path}: no {split} split in this folder; it should hold {names}")
    elif path.is_file():
        if split != "train":
            raise UsageError(f"{path}: a single file has no {split} split; put {split}.jsonl beside train.jsonl")
        files = [path]
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        yield from _hub_rows(str(source), split)
        return
    else:
        raise UsageError(f"{source}: no such file or folder, and no id of a data set (owner/name)")
    for file in files:
        yield from _READERS[_kind(file)](file)


def _kind(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix not in _READERS:
        raise UsageError(f"{file}: rows are read from {', '.join(_KINDS)} files")
    return suffix


def _files(folder: Path, split: str) -> list[Path]:
    """The files of a split: one, or the shards of a Parquet export ("train-00000-of-00002.parquet")."""
    found: list[list[Path]] = []
    for name in _SPLITS.get(split, (split,)):
        found += [[file] for kind in _KINDS if (file := folder / f"{name}{kind}").is_file()]
        found += [
            shards for place in (folder, folder / "data") if (shards := sorted(place.glob(f"{name}-*-of-*.parquet")))
        ]
    for shards in found:
        parts = re.fullmatch(r".*-of-(\d+)\.parquet", shards[0].name)
        if parts is not None and len(shards) != int(parts[1]):
            count = f"{len(shards)} of the {int(parts[1])}"
            raise UsageError(f"{folder}: {count} shards of the {split} split are there; fetch the others")
    if len(found) > 1:
        raise UsageError(f"{folder}: both {found[0][0].name} and {found[1][0].name} could be the {split} split")
    return found[0] if found else []


def _json(file: Path) -> Iterator[RawRow]:
    for place, row in read_rows(file):
        yield RawRow(row, f"{file.name}, {place}", file.parent)


def _parquet(file: Path) -> Iterator[RawRow]:
    _need("pyarrow", str(file))
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    number += 1
                    yield RawRow(row, f"{file.name}, row {number}", file.parent)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read as Parquet ({str(error).splitlines()[0]})") from None


def _hub_rows(name: str, split: str) -> Iterator[RawRow]:
    found = _hub_split(name, split)
    if found is None:
        raise UsageError(f"{name}: the data set has no {split} split")
    import datasets

    # As Arrow tables, images stay the encoded bytes that they are stored as.
    number = 0
    for table in datasets.load_dataset(name, split=found).with_format("arrow").iter(batch_size=64):
        for row in table.to_pylist():
            number += 1
            yield RawRow(row, f"{name}, {found} row {number}", Path())


def _hub_split(name: str, split: str) -> str | None:
    """What a data set calls a split; None when it has none."""
    _need("datasets", name)
    import datasets

    try:
        names = datasets.get_dataset_split_names(name)
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: cannot be read from the Hub ({str(error).splitlines()[0][:200]})") from None
    return next((known for known in _SPLITS.get(split, (split,)) if known in names), None)


def _need(package: str, what: str) -> None:
    if find_spec(package) is None:
        raise UsageError(f"{what}: reading it needs the package {package}; run: pip install 'rave-mlx[train]'")


_READERS = {".jsonl": _json, ".json": _json, ".parquet": _parquet}
