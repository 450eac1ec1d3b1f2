"""Rows of a benchmark's data: Parquet files with their pictures inside, or one JSON file with pictures beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.benchmarks.data_set import DataFiles
from rave_mlx.evaluate.benchmarks.spec import Benchmark
from rave_mlx.evaluate.scores.tables import missing

IMAGE = "image"
_AT_A_TIME = 16
Row = dict[str, Any]


def rows(benchmark: Benchmark, files: DataFiles) -> Iterator[tuple[Row, float]]:
    """The rows of a benchmark in order, each with the share of them that is done with it; files are fetched on the way.

    Args:
        benchmark: the benchmark.
        files: its files.

    Raises:
        UsageError: naming file and row, for what is not as published; without the `evaluate` extra.
        ModelError: for what the Hub, the network or the disk refuses.
    """
    read = _json_rows if benchmark.files.endswith(".json") else _parquet_rows
    for number, path in enumerate(files):
        for row, share in read(benchmark, files, path):
            yield row, (number + share) / len(files.names)


def _parquet_rows(benchmark: Benchmark, files: DataFiles, path: Path) -> Iterator[tuple[Row, float]]:
    """Rows of a Parquet file; rows that follow each other with the same picture share one object."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise missing("pyarrow to read its data") from None
    try:
        with ParquetFile(path) as file:
            _check_columns(benchmark, path, file.schema_arrow.names)
            number, picture = 0, b""
            for batch in file.iter_batches(batch_size=_AT_A_TIME):
                for row in batch.to_pylist():
                    number += 1
                    found = _picture(row[IMAGE], f"{path}, row {number}")
                    picture = picture if found == picture else found
                    yield {**row, IMAGE: picture}, number / file.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())[:200]})") from None


def _check_columns(benchmark: Benchmark, path: Path, there: list[str]) -> None:
    needed = dict.fromkeys((IMAGE, *benchmark.columns.values(), *benchmark.tags.values()))
    lacking = [name for name in needed if name not in there]
    if lacking:
        raise UsageError(
            f"{path}: no column {', '.join(lacking)}, which {benchmark.title} has as published ({benchmark.repo}); "
            f"there are {', '.join(there)}"
        )


def _picture(value: Any, place: str) -> bytes:
    """The bytes of a picture: a column of them, or of objects with bytes and path."""
    found = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(found, bytes):
        raise UsageError(f"{place}: no picture in column {IMAGE}; the file must hold the pictures' bytes")
    return found


def _json_rows(benchmark: Benchmark, files: DataFiles, path: Path) -> Iterator[tuple[Row, float]]:
    """Pages of a JSON file, each with its picture from `images/`, fetched when it is reached."""
    try:
        pages = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error})") from None
    for number, page in enumerate(pages if isinstance(pages, list) else [], 1):
        try:
            name = page["page_info"]["image_path"]
        except (KeyError, TypeError):
            raise UsageError(f"{path}, page {number}: has no page_info with an image_path, as published") from None
        yield {IMAGE: files.get(f"images/{Path(name).name}"), "page": page}, number / len(pages)
    if not isinstance(pages, list) or not pages:
        raise UsageError(f"{path}: no list of pages, as {benchmark.title} is published")
