"""Files of rows as other programs write them: JSON Lines or one JSON list, in any Unicode encoding.

The encoding follows from a byte order mark, else from where the zero bytes of the first four are (RFC 4627, section 3:
JSON begins with two ASCII characters), as `json.detect_encoding` has it. What is no Unicode is refused and not guessed:
a wrong code page changes letters without a word. A line ends with LF, CR LF or CR; JSON strings cannot hold these,
but they may hold U+2028, U+2029 and U+0085, at which `str.splitlines` would cut them.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rave_mlx.errors import RaveError

_BOM = "\ufeff"
_PADDING = "\0\x1a"
"""What may follow the last line: zeros of a file that was allocated ahead, and the end mark of DOS (Ctrl-Z)."""
_NO_TEXT = {
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"\x28\xb5\x2f\xfd": "a zstd archive; unpack it",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet; unpack it, or export it as JSON Lines",
    b"PAR1": "Parquet; `train` reads it from a file that ends in .parquet",
    b"SQLite format 3": "a database; export it as JSON Lines",
}
_NO_JSON = {".csv": "comma-separated", ".tsv": "tab-separated", ".xlsx": "a spreadsheet", ".parquet": "Parquet"}


class RowError(RaveError):
    """A file of rows that cannot be read, or one of its rows; the message names the line."""


def read_text(file: Path) -> str:
    """The text of a file, without a byte order mark and without padding behind its last line.

    Raises:
        RowError: when it cannot be opened or is no Unicode text, naming the line and the likely encoding.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise RowError(f"{file}: cannot be read ({error.strerror})") from None
    for signature, what in _NO_TEXT.items():
        if data.startswith(signature):
            raise RowError(f"{file}: this is {what}")
    encoding = json.detect_encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise RowError(f"{file}, {_undecodable(data, error)}") from None
    return text.removeprefix(_BOM).rstrip(_PADDING + string.whitespace)


def read_rows(file: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a JSON Lines or JSON file, each with its place ("line 3", "row 3").

    Which of the two it is follows from what is in the file, not from its name. A JSON file holds a list of rows, or an
    object with that list under "data" (as DocVQA's files do). Blank lines are skipped.

    Yields:
        The place and the row; in the place of a row that cannot be parsed, a `RowError` that is not raised.

    Raises:
        RowError: when the file cannot be read as a whole.
    """
    if file.suffix.lower() in _NO_JSON:
        raise RowError(f"{file}: this is {_NO_JSON[file.suffix.lower()]}; save the rows as JSON Lines (.jsonl)")
    text = read_text(file)
    lines = [(number, line) for number, line in enumerate(_lines(text), 1) if line]
    listed = _listed(file, text, lines[0][1]) if lines else None
    if listed is not None:
        yield from ((f"row {number}", row) for number, row in enumerate(listed, 1))
        return
    for number, line in lines:
        yield f"line {number}", _parsed(line)


def _lines(text: str) -> Iterator[str]:
    """Lines without white space around them; of files that were put together, without their byte order marks."""
    return (line.strip().removeprefix(_BOM).strip() for line in re.split(r"\r\n|\n|\r", text))


def _listed(file: Path, text: str, first: str) -> list[Any] | None:
    """The rows of a file that is one JSON value; None when it holds one object a line."""
    if not first.startswith("["):
        row = _parsed(first)
        whole = _parsed(text) if isinstance(row, RowError) and first.startswith("{") else row
        data = whole.get("data") if isinstance(whole, Mapping) else None
        if isinstance(data, list) and data and all(isinstance(row, Mapping) for row in data):
            return data
        if whole is not row and isinstance(whole, Mapping):
            raise RowError(f"{file}: one object over several lines; expected a list of rows, or one object a line")
        return None
    value = _parsed(text)
    if isinstance(value, RowError):
        raise RowError(f"{file}: {value}")
    return value if isinstance(value, list) else None


def _parsed(text: str) -> Any:
    """A JSON value, or why there is none."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return RowError(f"not JSON ({line}column {error.colno}: {error.msg[:1].lower()}{error.msg[1:]})")
    except UnicodeEncodeError:
        return RowError(r"not JSON (half a surrogate pair, as \ud83d without its other half)")
    except (ValueError, RecursionError) as error:
        return RowError(f"not JSON ({error})")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that is there twice would otherwise count once, in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _undecodable(data: bytes, error: UnicodeDecodeError) -> str:
    """Where bytes are no text in the encoding that they should have, and what they may be instead."""
    line = len(re.findall(rb"\r\n|\n|\r", data[: error.start])) + 1
    if error.encoding != "utf-8":
        before = data[: error.start].decode(error.encoding, "replace")
        line = len(re.findall(r"\r\n|\n|\r", before)) + 1
        return f"line {line}: not valid {error.encoding.upper()} ({error.reason}); save the file again as UTF-8"
    return (
        f"line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); it looks like Latin-1 or Windows-1252, or another "
        "code page: save the file as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8 FILE)"
    )
