"""SHA-256 of the files that a conversion reads, computed beside it on another core."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

_BLOCK = 1 << 20


class Hashes:
    """A context in which files are hashed in the background; leaving it stops what is still running."""

    def __init__(self, files: Iterable[Path]):
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._stop = threading.Event()
        self._files = list(files)
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
        return {name: future.result() for name, future in self._running.items()}

    def _hash(self, file: Path) -> str:
        digest, room = hashlib.sha256(), memoryview(bytearray(_BLOCK))
        with file.open("rb") as stream:
            while not self._stop.is_set() and (count := stream.readinto(room)):
                digest.update(room[:count])
        return digest.hexdigest()
