"""CSV and Parquet out of the rows of a run: `invoices.csv`, and `invoices.items.csv` for a list of objects in them.

CSV is written for spreadsheets: UTF-8 with a byte order mark, by which they know the encoding; text that a spreadsheet
would run as a formula gets an apostrophe in front. Parquet has the same columns with types, and text as it is. Values
are exact in the rows file only, which stays beside the table.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from rave_mlx.checkpoint.output_files import replacing
from rave_mlx.checkpoint.rows_file import SETTINGS, read_lines
from rave_mlx.documents.table_columns import Columns, Record, records
from rave_mlx.errors import RaveError, UsageError

TABLES = (".csv", ".parquet")
_GROUP = 1000
"""Records that are written to Parquet at once."""
_FORMULA = re.compile(r"\s*[=+\-@\t\r]")
_NUMBER = re.compile(r"[-+]?[\d.,' ]+%?")


class _Writer(Protocol):
    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


def check_table(out: Path) -> None:
    """See that a table of this kind can be written, before there are rows.

    Raises:
        UsageError: without the package that writes it.
    """
    if out.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UsageError(f"{out}: Parquet needs a package; run: pip install 'rave-mlx[extract]'") from None


def write_tables(rows: Path, out: Path) -> list[Path]:
    """Write the rows of a file as a table, and one more for every list of objects in them.

    Args:
        rows: the JSON Lines.
        out: the table of the documents; ends in .csv or .parquet.

    Returns:
        The files that were written, `out` first.

    Raises:
        RaveError: when a file cannot be written, or is there from before the run.
    """
    tables: dict[str, Columns] = {"": Columns()}
    for path, record in _records(rows):
        tables.setdefault(path, Columns()).note(record)
    files = {path: _file(out, path) for path in tables}
    begun = rows.with_name(rows.name + SETTINGS).stat().st_mtime_ns
    for file in files.values():
        if file.exists() and file.stat().st_mtime_ns < begun:
            raise RaveError(f"{file}: was there before the run; move it away, and make the table with --resume")
    with ExitStack() as stack:
        writers = {
            path: _open(stack.enter_context(replacing(files[path])), columns, out.suffix.lower())
            for path, columns in tables.items()
        }
        for path, record in _records(rows):
            writers[path].write(record)
        for writer in writers.values():
            writer.close()
    return list(files.values())


def _records(rows: Path) -> Iterator[tuple[str, Record]]:
    for _, _, row in read_lines(rows):
        yield from records(row)


def _file(out: Path, path: str) -> Path:
    """The file of a table; names of fields may hold what names of files cannot."""
    name = re.sub(r"[^\w.-]+", "_", path).strip(".")
    return out.with_name(f"{out.stem}.{name}{out.suffix}") if path else out


def _open(file: BinaryIO, columns: Columns, ending: str) -> _Writer:
    return _Csv(file, columns) if ending == ".csv" else _Parquet(file, columns)


class _Csv:
    def __init__(self, file: BinaryIO, columns: Columns):
        self._names = columns.ordered()
        self._text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="backslashreplace", newline="")
        self._out = csv.writer(self._text)
        self._out.writerow(map(_for_spreadsheet, self._names))

    def write(self, record: Record) -> None:
        self._out.writerow([_for_spreadsheet(record.get(name)) for name in self._names])

    def close(self) -> None:
        self._text.flush()
        self._text.detach()


def _for_spreadsheet(value: Any) -> Any:
    """A cell that is shown and not run. Signed numbers stay as they are: they are not run either."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


class _Parquet:
    def __init__(self, file: BinaryIO, columns: Columns):
        import pyarrow
        import pyarrow.parquet

        self._arrow = pyarrow
        kinds = {name: _kind(columns.types[name]) for name in columns.ordered()}
        types = {str: pyarrow.string(), float: pyarrow.float64(), int: pyarrow.int64(), bool: pyarrow.bool_()}
        self._kinds = kinds
        self._schema = pyarrow.schema([(name, types[kind]) for name, kind in kinds.items()])
        self._out = pyarrow.parquet.ParquetWriter(file, self._schema)
        self._waiting: list[Record] = []

    def write(self, record: Record) -> None:
        self._waiting.append({name: _as_kind(record.get(name), kind) for name, kind in self._kinds.items()})
        if len(self._waiting) == _GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._out.close()

    def _flush(self) -> None:
        if self._waiting:
            self._out.write_table(self._arrow.Table.from_pylist(self._waiting, schema=self._schema))
            self._waiting = []


def _kind(found: set[type]) -> type:
    """The type of a column that can hold all that stands in it."""
    if len(found) == 1:
        return next(iter(found))
    return float if found == {int, float} else str


def _as_kind(value: Any, kind: type) -> Any:
    """A value as its column has it; text where a column has several types."""
    if value is None or isinstance(value, kind):
        return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
    return kind(value)
