"""SHA-256 of the files that a conversion reads: told by the Hub, or computed beside it on another core."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

_BLOCK = 1 << 20
_SMALL = 1 << 26
_SHA256 = re.compile("[0-9a-f]{64}")


class Hashes:
    """A context in which files are hashed in the background; leaving it stops what is still running.

    Args:
        files: what to hash.
        large: whether to hash files beyond 64 MB, too, whose hash the Hub has not told; where cores are few, that
            takes as long as converting them.
    """

    def __init__(self, files: Iterable[Path], *, large: bool):
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._stop = threading.Event()
        self._told: dict[str, str] = {}
        self._files: list[Path] = []
        for file in files:
            known = told_by_hub(file)
            if known is not None:
                self._told[file.name] = known
            elif large or file.stat().st_size <= _SMALL:
                self._files.append(file)
        self._running: dict[str, Future[str]] = {}

    def __enter__(self) -> Hashes:
        self._running = {file.name: self._pool.submit(self._hash, file) for file in self._files}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def result(self) -> dict[str, str]:
        """Hexadecimal digests by file name; waits for them.

        Raises:
            OSError: when a file cannot be read.
        """
        return self._told | {name: future.result() for name, future in self._running.items()}

    def _hash(self, file: Path) -> str:
        digest, room = hashlib.sha256(), memoryview(bytearray(_BLOCK))
        with file.open("rb") as stream:
            while not self._stop.is_set() and (count := stream.readinto(room)):
                digest.update(room[:count])
        return digest.hexdigest()


def told_by_hub(file: Path) -> str | None:
    """The hash of a large file in the Hub's cache, where it is a link to a blob of that name."""
    blob = file.resolve()
    return blob.name if file.is_symlink() and blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None
