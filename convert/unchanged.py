"""Notice a source that somebody writes to while it is read: what came of it would be a mixture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rave_mlx.checkpoint.finite import some
from rave_mlx.checkpoint.links import model_files
from rave_mlx.errors import ModelError

_State = tuple[int, int, int]


class Unchanged:
    """Sizes, times and inodes of the files of model directories (and of GGUF files), as they are now.

    Args:
        places: the directories and files.
    """

    def __init__(self, *places: Path):
        self._places = places
        self._before = self._look()

    def check(self, used: Iterable[Path] = ()) -> None:
        """Compare with what is there now.

        Args:
            used: files that were read; of GGUF files, others do not matter.

        Raises:
            ModelError: naming files that changed, came or went.
        """
        now = self._look()
        known = [f for f in {**self._before, **now} if f.suffix != ".gguf" or f in {*self._places, *used}]
        changed = sorted(str(f) for f in known if self._before.get(f) != now.get(f))
        if changed:
            raise ModelError(
                f"{some(changed)}: changed while being read; nothing was written: run the command again when nobody "
                "writes there"
            )

    def _look(self) -> dict[Path, _State | None]:
        files = (f for place in self._places for f in (_gguf_files(place) if place.is_file() else model_files(place)))
        return {file: _state(file) for file in files}


def _gguf_files(file: Path) -> Iterable[Path]:
    """A GGUF file and those beside it: a model may lie in several."""
    return file.parent.glob("*.gguf")


def _state(file: Path) -> _State | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
