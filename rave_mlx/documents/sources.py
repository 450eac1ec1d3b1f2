"""From what a person names to the documents that are meant, in a defined order.

Files stand in the order in which they are named. A folder stands for the files in it and in its folders, in natural
order (page 2 before page 10); hidden ones, and what the run itself writes, are left out. In a folder a file counts
whose ending is that of a picture or a PDF, or that has no ending and begins like one; a file that is named itself is
always a document, and becomes a row with an error where it is none. A link is what it leads to, also out of the folder;
a folder is entered once, so that links in a circle end. A file that is named twice is read once; two files with the
same content are two documents.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from rave_mlx.documents.pages_spec import PageRanges
from rave_mlx.errors import ImageError, UsageError
from rave_mlx.inputs.images.formats import HEAD, PDF, kind_of
from rave_mlx.inputs.images.sources import ImageSource, resolve_source, split_page, words

STDIN = "-"
ENDINGS = frozenset((
    *(".pdf", ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    *(".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
))  # fmt: skip
"""Endings of the files that are read in a folder, in lower case."""

Named = ImageSource | Iterable[ImageSource]
"""A file, folder or pattern; bytes, an open file, a picture; or several of these."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A document that was named, and not opened yet.

    Attributes:
        name: as in rows and messages; bytes of a file name that are no UTF-8 are written as \\xff.
        data: a path, the bytes of a file, or a picture; None for standard input.
        pages: which of its pages; None for all.
        problem: why it cannot be opened at all, where that is known already.
    """  # noqa: D301 - the backslash is meant for people

    name: str
    data: str | bytes | Image.Image | None
    pages: PageRanges | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Pile:
    """The documents of a run.

    Attributes:
        documents: in order.
        left_out: how many files in folders are not read, by their ending (".docx"); "" for files without one.
    """

    documents: Sequence[Source]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def describe_left_out(self) -> str:
        """How many files are left out and which kinds, in one line; empty where there are none."""
        count = sum(self.left_out.values())
        if not count:
            return ""
        kinds = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
        listed = [f"{number} {ending or 'without ending'}" for ending, number in kinds[:5]]
        if len(kinds) > 5:
            listed.append(f"{sum(number for _, number in kinds[5:])} of other kinds")
        what = "1 file that is no picture or PDF is" if count == 1 else f"{count} files that are no picture or PDF are"
        return f"{what} left out: {', '.join(listed)}"


def find_documents(named: Named, *, pages: PageRanges | None = None, skip: Iterable[Path] = ()) -> Pile:
    """The documents that are meant.

    Args:
        named: files, folders, patterns like scans/*.pdf and `-` for standard input; a file may end in #page=2. In
            Python also bytes, open files and pictures.
        pages: which pages of every document; a page behind a file's name goes before.
        skip: files and folders that are never documents: what the run writes.

    Raises:
        ImageError: when nothing of what is named is there, or no document is in it; for an address on the network.
        UsageError: for `-` given twice.
    """
    several = isinstance(named, Iterable) and not isinstance(named, str | os.PathLike | bytes | bytearray | memoryview)
    values = list(named) if several and not hasattr(named, "read") and not hasattr(named, "shape") else [named]  # type: ignore[arg-type]
    finder = _Finder(pages, skip)
    for value in values:
        finder.add(value)  # type: ignore[arg-type]
    pile = Pile(finder.found, dict(finder.left_out))
    if values and finder.missing == len(values):
        first = pile.documents[0]
        raise ImageError(f"{first.name}: {first.problem}")
    if not pile.documents:
        left_out = pile.describe_left_out()
        raise ImageError(
            f"{display_name(str(values[0])) if values else 'nothing is named'}: no document is there; "
            + (left_out or "name PDFs, pictures, or folders with them")
        )
    return pile


def display_name(path: str) -> str:
    """A path as text that every program can read: bytes that are no UTF-8 become \\xff."""  # noqa: D301
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def natural_key(name: str) -> tuple[object, ...]:
    """Sorts names as people do: numbers in them by their value, capitals like small letters."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return (*((int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)), (0, name))


class _Finder:
    """Collects documents from what is named."""

    def __init__(self, pages: PageRanges | None, skip: Iterable[Path]):
        self.found: list[Source] = []
        self.left_out: Counter[str] = Counter()
        self.missing = 0
        self._pages = pages
        self._skip = {_identity(os.fspath(path)) for path in skip}
        self._named: set[tuple[str, str]] = set()
        self._pictures = 0
        self._names: Counter[str] = Counter()

    def _take(
        self,
        name: str,
        data: str | bytes | Image.Image | None,
        pages: PageRanges | None = None,
        problem: str | None = None,
    ) -> None:
        """A document is found; its row is known by its name, so that a second of that name gets a number."""
        self._names[name] += 1
        if self._names[name] > 1:
            name = f"{name} ({self._names[name]})"
        self.found.append(Source(name, data, pages, problem))

    def add(self, value: ImageSource) -> None:
        """Everything that one name stands for."""
        if not isinstance(value, str | os.PathLike):
            self._pictures += 1
            data = resolve_source(value)
            given = getattr(value, "filename", None) or getattr(value, "name", None)
            name = given if given and isinstance(given, str) else f"image {self._pictures}"
            self._take(name, data, self._pages)
            return
        text = os.fspath(value)
        if text == STDIN:
            if any(source.data is None and source.problem is None for source in self.found):
                raise UsageError("- is given twice; standard input holds one document")
            self._take(STDIN, None, self._pages)
        elif isinstance(value, str) and re.match(r"[a-z][a-z0-9+.-]+:(//|/|[^/]*,)", text, re.IGNORECASE):
            self._add_address(text)
        else:
            self._add_path(text)

    def _add_address(self, text: str) -> None:
        """A file: or data: URL; others are refused, unless a file has that name."""
        if os.path.lexists(text):
            self._add_path(text)
            return
        address, page = split_page(text)
        data = resolve_source(address)
        if isinstance(data, str):
            self._add_path(data if page is None else f"{data}#page={page}")
        else:
            self._pictures += 1
            self._take(f"image {self._pictures}", data, self._pages)

    def _add_path(self, text: str) -> None:
        path, page = split_page(text)
        pages = self._pages if page is None else PageRanges(((page, page),))
        with contextlib.suppress(RuntimeError):  # ~name of nobody: a file may be called so
            path = str(Path(path).expanduser()) if path.startswith("~") else path
        matches = [path]
        if not os.path.lexists(path) and glob.has_magic(path):
            matches = sorted(glob.glob(path, recursive=True), key=natural_key)  # noqa: PTH207 - absolute patterns
            if not matches:
                self._miss(path, "no file matches; check the pattern")
        for match in matches:
            if os.path.isdir(match):  # noqa: PTH112 - Path.is_dir raises for names that no file can have
                self._walk(match, pages)
            elif not os.path.lexists(match):
                self._miss(match, "no such file or folder; check the path")
            else:
                self._add_file(match, pages, page)

    def _miss(self, path: str, problem: str) -> None:
        self.missing += 1
        self._take(display_name(path), None, problem=problem)

    def _add_file(self, path: str, pages: PageRanges | None, page: int | None = None) -> None:
        identity = (os.path.abspath(path), str(pages))  # noqa: PTH100 - Path.absolute keeps `..`
        if identity not in self._named:
            self._named.add(identity)
            name = display_name(path)
            self._take(name if page is None else f"{name}#page={page}", path, pages)

    def _walk(self, top: str, pages: PageRanges | None) -> None:
        """The documents below a folder; a stack of listings, for folders may lie deeper than Python's calls can."""
        entered: set[tuple[int, int] | None] = set()
        stack = [iter((top,))]
        while stack:
            path = next(stack[-1], None)
            if path is None:
                stack.pop()
                continue
            identity = _identity(path)
            if identity is not None and identity in self._skip:
                continue
            if os.path.isdir(path):  # noqa: PTH112 - as above
                if identity not in entered:
                    entered.add(identity)
                    stack.append(self._entries(path))
            elif self._is_document(path):
                self._add_file(path, pages)
            else:
                self.left_out[os.path.splitext(path)[1].lower()] += 1  # noqa: PTH122 - of a text

    def _entries(self, folder: str) -> Iterator[str]:
        """What is in a folder, in natural order."""
        try:
            names = [name for name in os.listdir(folder) if not name.startswith(".")]  # noqa: PTH208 - of a text
        except OSError as error:
            problem = f"the folder cannot be opened ({words(error)}); what is in it is not read"
            self._take(display_name(folder), None, problem=problem)
            return iter(())
        return iter([os.path.join(folder, name) for name in sorted(names, key=natural_key)])  # noqa: PTH118

    def _is_document(self, path: str) -> bool:
        """Whether a file of a folder is read."""
        ending = os.path.splitext(path)[1].lower()  # noqa: PTH122 - of a text
        if ending or not os.path.isfile(path):  # noqa: PTH113 - of a text
            return ending in ENDINGS
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - of a text
                kind = kind_of(file.read(HEAD))
        except OSError:
            return False
        return bool(kind.formats) or kind is PDF


def _identity(path: str) -> tuple[int, int] | None:
    """What a file or folder is, by whatever path; None where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - of a text
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
