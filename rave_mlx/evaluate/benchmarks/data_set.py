"""The files of a benchmark's data set: on the Hub, fetched one by one when they are needed, or in a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from rave_mlx.convert.hub import HUB_ID, asking
from rave_mlx.errors import UsageError
from rave_mlx.evaluate.benchmarks.spec import Benchmark

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(.*)$")
DATA_SET = "data set"


@dataclass(frozen=True)
class DataFiles:
    """Files of a data set.

    Attributes:
        name: of the data set or folder, for messages.
        names: those that hold the split that is asked, in order.
        get: the place of a file of the data set on this machine, after fetching it.
    """

    name: str
    names: tuple[str, ...]
    get: Callable[[str], Path]

    def __iter__(self) -> Iterator[Path]:
        """The files in order, each fetched when it is reached."""
        yield from (self.get(name) for name in self.names)


def data_files(benchmark: Benchmark, place: str | None) -> DataFiles:
    """The files of a benchmark.

    Args:
        benchmark: the benchmark.
        place: a folder with a copy of its data set, or another data set of the same layout on the Hub; None for the
            published one on the Hub.

    Raises:
        UsageError: where the folder or data set does not hold such files.
        ModelError: for what the Hub, the network or the disk refuses.
    """
    if place is None:
        return _on_hub(benchmark, benchmark.repo)
    folder = Path(place).expanduser()
    if folder.is_dir():
        return _in_folder(benchmark, folder)
    if folder.exists() or not HUB_ID.fullmatch(place):
        raise UsageError(f"--data {place}: no such folder; give a copy of {benchmark.repo}, or leave --data out")
    return _on_hub(benchmark, place)


def _on_hub(benchmark: Benchmark, repo: str) -> DataFiles:
    """Files on the Hub, all of one commit; without a connection, those of the cache."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        return _cached(benchmark, repo)
    info = asking(partial(HfApi().dataset_info, repo), repo, what=DATA_SET)
    listed = [sibling.rfilename for sibling in info.siblings or []]
    found = _matching(benchmark.files, listed)
    if not found:
        raise UsageError(f"{repo}: this data set has no files {benchmark.files}, as {benchmark.title} is published")

    def get(name: str) -> Path:
        fetch = partial(hf_hub_download, repo, name, repo_type="dataset", revision=info.sha)
        return Path(asking(fetch, f"{repo}, {name}", what=DATA_SET))

    return DataFiles(repo, found, get)


def _cached(benchmark: Benchmark, repo: str) -> DataFiles:
    """What the local cache has of the commit that was used last."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    commits = Path(HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="dataset"), "snapshots").glob("*")
    newest = max(commits, key=lambda folder: folder.stat().st_mtime, default=None)
    if newest is None:
        raise UsageError(
            f"{repo}: is not in the local cache, and HF_HUB_OFFLINE is set; unset it, or give --data FOLDER"
        )
    return _in_folder(benchmark, newest)


def _in_folder(benchmark: Benchmark, folder: Path) -> DataFiles:
    """Files of a folder: in their folders as published, or all in one."""
    listed = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    found = _matching(benchmark.files, listed) or _matching(benchmark.files.rpartition("/")[2], listed)
    if not found:
        raise UsageError(
            f"{folder}: no files {benchmark.files} in it, as {benchmark.title} is published ({benchmark.repo} on the "
            "Hub); give --data a copy of that, or leave it out"
        )

    def get(name: str) -> Path:
        if not (folder / name).is_file():
            raise UsageError(f"{folder}: {name} is missing; fetch it, or ask fewer questions with --pages")
        return folder / name

    return DataFiles(str(folder), _all_shards(found), get)


def _matching(pattern: str, listed: list[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in listed if fnmatchcase(name, pattern)))


def _all_shards(found: tuple[str, ...]) -> tuple[str, ...]:
    """With the names of shards that are not there, so that a copy in part is no smaller benchmark in silence."""
    shard = _SHARD.search(found[0])
    # Shards of data sets that were uploaded long ago have a hash behind, which the others cannot be known by.
    if shard is None or shard[3] != ".parquet":
        return found
    stem, count = found[0][: shard.start()], int(shard[2])
    return tuple(f"{stem}-{number:05}-of-{count:05}.parquet" for number in range(count))
