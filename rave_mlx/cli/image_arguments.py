"""Images on the command line and in the conversation, as people and shells write them.

Several files after one --image, patterns that no shell expanded, `-` for standard input, a page for each file, and
paths that were dragged into a terminal, which quotes them in its own way.
"""

from __future__ import annotations

import glob
import io
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from rave_mlx.errors import ImageError, UsageError
from rave_mlx.inputs.images.formats import HEAD, PDF, kind_of

if TYPE_CHECKING:
    from rave_mlx.inputs.images.sources import ImageSource

_PAGE = "#page="
STDIN = "-"


@dataclass(frozen=True)
class ImageArgument:
    """An image that was named.

    Attributes:
        source: a path, a URL, or standard input.
        page: from 1; of a PDF or a TIFF with several pages.
        name: for messages.
    """

    source: ImageSource
    page: int
    name: str

    @property
    def is_stdin(self) -> bool:
        """Whether standard input was read for it."""
        return isinstance(self.source, _Piped)

    @property
    def folder_beside(self) -> Path:
        """A folder for what is made of the image: NAME-look beside its file, or in the current folder."""
        if isinstance(self.source, Path):
            return self.source.with_name(f"{self.source.stem}-look")
        return Path("image-look")


class ImagesCommand(TyperCommand):
    """A command whose --image takes several files, and whose --page belongs to the file before it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Arguments of the command, each file with an option and a page of its own."""
        return super().parse_args(ctx, spread_images(args))


class _Piped(io.BytesIO):
    """What standard input held, with a name for messages."""

    name = "standard input"


def spread_images(arguments: Sequence[str]) -> list[str]:
    """Put --image before every file that follows one, and the page of --page behind the file before it.

    `--image a.png b.pdf --page 2` becomes `--image a.png --image b.pdf#page=2`. A second --page shows another page of
    the same file. One that comes before all files stays where it is.

    Raises:
        UsageError: for a file with a page in its name and another one behind it.
    """
    spread: list[str] = []
    file, place = "", -1  # the last file, and where it stands while it has no page
    more = False  # whether a bare word is one more file
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        attached = re.fullmatch(r"(?:--image=|-i(?=[^-]))(.+)", token, re.DOTALL)
        if token == "--":
            return [*spread, token, *rest]
        page = _page_option(token, rest) if file else None
        if page is not None:
            if _PAGE in file and not os.path.lexists(file):
                raise UsageError(f"{file} --page {page}: the page is given twice; leave one out")
            if place < 0:
                spread += ["--image", f"{file}{_PAGE}{page}"]
            else:
                spread[place], place = f"{file}{_PAGE}{page}", -1
        elif attached or (token in ("--image", "-i") and rest) or (more and not _is_option(token)):
            file = attached[1] if attached else rest.pop(0) if _is_option(token) else token
            spread += ["--image", file]
            place, more = len(spread) - 1, True
        else:
            more = False
            spread.append(token)
    return spread


def _is_option(token: str) -> bool:
    """Whether a word of the command line is an option; `-` alone is standard input."""
    return token.startswith("-") and token != STDIN


def _page_option(token: str, rest: list[str]) -> int | None:
    """The page of a --page option, taken out of the arguments; what is no page is left for the parser to refuse."""
    if token == "--page" and rest and re.fullmatch(r"0*[1-9]\d{0,8}", rest[0]):
        return int(rest.pop(0))
    attached = re.fullmatch(r"--page=(0*[1-9]\d{0,8})", token)
    return None if attached is None else int(attached[1])


def open_arguments(values: Sequence[str], page: int = 1) -> list[ImageArgument]:
    """The images that arguments name; standard input is read here.

    Args:
        values: paths, patterns like scans/*.png, file: and data: URLs, `-`; each may end in #page=2.
        page: of the first one, where it does not say which.

    Raises:
        ImageError: for a pattern that nothing matches, an address on the network, or a standard input without image.
        UsageError: for `-` given twice.
    """
    from rave_mlx.inputs.images.sources import split_page

    images: list[ImageArgument] = []
    for value in values:
        text, own = split_page(value)
        number = own or (1 if images else page)
        if text == STDIN:
            if any(image.is_stdin for image in images):
                raise UsageError("--image -: standard input holds one image; name the others as files")
            images.append(ImageArgument(_read_stdin(), number, _Piped.name))
        elif re.match(r"(file|data):", text, re.IGNORECASE):
            images.append(ImageArgument(text, number, text if len(text) < 200 else f"{text[:40]}…"))
        elif re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE):
            raise ImageError(
                f"{text}: addresses are not fetched; download the image (curl -LO ADDRESS) and name the file, or pipe "
                "it in (curl -L ADDRESS | rave-mlx chat --image - ...)"
            )
        else:
            images += [ImageArgument(path, number, str(path)) for path in _matches(text)]
    return images


def _read_stdin() -> _Piped:
    """The image on standard input."""
    if sys.stdin.isatty():
        raise ImageError("--image -: standard input is a terminal; pipe an image into the command")
    return _Piped(sys.stdin.buffer.read())


def _matches(text: str) -> list[Path]:
    """The file of this name, or those that match it where there is none."""
    path = _home(text)
    if os.path.lexists(path) or not glob.has_magic(text):
        return [path]
    found = sorted(glob.glob(str(path)))  # noqa: PTH207 - Path.glob takes no absolute patterns
    if not found:
        raise ImageError(f"{text}: no file matches; check the pattern")
    return [Path(name) for name in found]


def _home(text: str) -> Path:
    """A path with `~` resolved."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of nobody: a file may be called so
        return Path(text)


def named_files(line: str) -> list[str] | None:
    """The files that a line names when it names nothing else, however it is quoted; None for any other line.

    Terminals put a dragged file in as a path with backslashes before spaces, in quotes, or as a file: URL; a person
    types it as it is.
    """
    line = line.strip()
    if not line:
        return None
    if _exists(line):
        return [line]
    try:
        words = shlex.split(line)
    except ValueError:  # an apostrophe that closes no quote
        return None
    return words if words and all(map(_exists, words)) else None


def _exists(text: str) -> bool:
    """Whether a path, perhaps with a page behind it, or a file: URL names something."""
    from rave_mlx.inputs.images.sources import resolve_source, split_page

    text, _ = split_page(text)
    if re.match(r"file:", text, re.IGNORECASE):
        try:
            return os.path.lexists(str(resolve_source(text)))
        except ImageError:
            return False
    return bool(text) and os.path.lexists(_home(text))


def dragged_images(line: str) -> list[str] | None:
    """The files of a line that is nothing but paths to them, and no question.

    A whole path is meant as a file, whatever is in it; a bare word may be a question that happens to be the name of a
    file, so that it has to be a picture.
    """
    files = named_files(line)
    if files is None:
        return None
    return files if all(re.match(r"[/~]|file:", file, re.IGNORECASE) or _is_picture(file) for file in files) else None


def _is_picture(text: str) -> bool:
    """Whether a file begins as an image or a PDF does."""
    from rave_mlx.inputs.images.sources import split_page

    path = _home(split_page(text)[0])
    try:
        with path.open("rb") as file:
            kind = kind_of(file.read(HEAD))
    except OSError:
        return False
    return bool(kind.formats) or kind is PDF


def typed_images(text: str) -> list[ImageArgument]:
    """The images that a person names after /image: files however quoted, patterns, each perhaps with a page behind it.

    Raises:
        ImageError: as `open_arguments`.
        UsageError: for `-`: the conversation itself comes from standard input.
    """
    files = named_files(text)
    if files is None:
        one = re.fullmatch(r"(.+?)\s+(\d+)", text.strip(), re.DOTALL)
        whole = named_files(one[1]) if one else None
        if one and whole and len(whole) == 1:
            return open_arguments([f"{whole[0]}{_PAGE}{int(one[2])}"])
        try:
            files = shlex.split(text)
        except ValueError:
            files = [text.strip()]
    values: list[str] = []
    for word in files:
        if values and word.isdecimal() and not os.path.lexists(word) and _PAGE not in values[-1]:
            values[-1] += f"{_PAGE}{int(word)}"
        else:
            values.append(word)
    if STDIN in values:
        raise UsageError("/image -: the conversation comes from standard input; save the image to a file and name that")
    return open_arguments(values)
