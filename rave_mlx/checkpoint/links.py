"""Links in a model directory: nothing outside it is read, and so nothing outside it is ever copied or uploaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rave_mlx.errors import ModelError

_READ = {".json", ".jinja", ".safetensors", ".md", ".model", ".txt"}
"""Endings of the files that a model may consist of."""
_SUBFOLDERS = ("hub", "additional_chat_templates")
"""Folders in it whose files are read, too."""


def check_links(folder: Path) -> None:
    """Refuse a model directory with a file, of those that may be read, that is a link to somewhere else.

    A snapshot in the Hub's cache consists of links to the `blobs` beside it; these are its own.

    Args:
        folder: the directory; it may be a link itself, which a person gave by name.

    Raises:
        ModelError: naming the file and where it leads.
    """
    roots = [folder.resolve()]
    cache = roots[0].parent.parent
    if roots[0].parent.name == "snapshots" and cache.name.startswith("models--"):
        roots.append(cache / "blobs")
    inner = [folder / name for name in _SUBFOLDERS if (folder / name).is_symlink()]
    for file in (*inner, *model_files(folder)):
        place = file.resolve()
        if not any(place.is_relative_to(root) for root in roots):
            raise ModelError(
                f"{file}: is a link to {place}, outside of the model directory; put the file itself there, if it "
                "belongs to the model"
            )


def model_files(folder: Path) -> Iterator[Path]:
    """The files of a model directory that may be read."""
    for place in (folder, *(folder / name for name in _SUBFOLDERS)):
        if place.is_dir():
            yield from (file for file in place.iterdir() if file.suffix in _READ)
