"""The log of a run: `log.jsonl`, one object for each update and each validation, and the same as CSV when asked for.

A resumed run first drops what lies after its checkpoint, so the log reads as if the run had never stopped.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rave_mlx.errors import ModelError
from rave_mlx.train.report import Update, Validation

JSONL, CSV = "log.jsonl", "log.csv"
_COLUMNS = (
    *("step", "epoch", "loss", "norm", "valid_loss", "exact", "answers"),
    *("tokens", "trained_tokens", "images", "seconds", "peak_bytes"),
    *("rate_adapter", "rate_gate", "rate_decoder", "rate_connector", "rate_vision", "sink"),
)


class Log:
    """Writes the log of the run in `out`, from update `step` on; `validated`: the last validation that counts."""

    def __init__(self, out: Path, step: int, validated: int, *, as_csv: bool = False):
        self._file = out / JSONL
        self._csv = out / CSV if as_csv else None
        kept = [e for e in read(out) if e["step"] <= (validated if "valid_loss" in e else step)]
        _replace(self._file, "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in kept))
        if self._csv is not None:
            _replace(self._csv, "")
            self._append_row(dict(zip(_COLUMNS, _COLUMNS, strict=True)))
            for entry in kept:
                self._append_row(_columns(entry))

    def update(self, update: Update) -> None:
        self._append({name: value for name, value in asdict(update).items() if value is not None})

    def validation(self, validation: Validation) -> None:
        self._append(asdict(validation))

    def note(self, text: str) -> None:
        """Notes are for people."""

    def saved(self, path: Path) -> None:
        """Checkpoints are to be seen in their folder."""

    def close(self) -> None:
        """Every line is on the disk already."""

    def _append(self, entry: dict[str, Any]) -> None:
        try:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry, allow_nan=False) + "\n")
            if self._csv is not None:
                self._append_row(_columns(entry))
        except OSError as error:
            raise ModelError(f"{self._file}: cannot be written ({error.strerror})") from None

    def _append_row(self, row: dict[str, Any]) -> None:
        assert self._csv is not None
        with self._csv.open("a", encoding="utf-8", newline="") as stream:
            csv.DictWriter(stream, _COLUMNS).writerow(row)


def read(out: Path) -> list[dict[str, Any]]:
    """The entries of a run's log; none when there is none yet. A line that a kill cut short is left out."""
    return list(_entries(out / JSONL))


def _entries(file: Path) -> Iterator[dict[str, Any]]:
    if not file.is_file():
        return
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if number == len(lines) and not line.endswith("\n"):
            return
        try:
            yield json.loads(line)
        except ValueError:
            raise ModelError(f"{file}, line {number}: not valid JSON; move the file away to go on") from None


def _columns(entry: dict[str, Any]) -> dict[str, Any]:
    rates = {f"rate_{group}": rate for group, rate in entry.get("rates", {}).items()}
    return {key: value for key, value in entry.items() if key != "rates"} | rates


def _replace(file: Path, text: str) -> None:
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise ModelError(f"{file}: cannot be written ({error.strerror})") from None
