"""Download from the Hub what a conversion needs, through `huggingface_hub`: its cache, tokens and settings apply.

Configuration files come first. They say which weight files there are, so that a second copy of the weights (pickles,
ONNX, the author's own layout) stays where it is.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.safetensors_reader import Entry, read_entry
from rave_mlx.errors import ModelError
from rave_mlx.models.finder import config as finder

if TYPE_CHECKING:
    from huggingface_hub.utils._safetensors import TensorInfo

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SMALL = ("*.json", "*.jinja", directory.CARD, "tokenizer.model")
_WEIGHTS = ("*.safetensors",)
_FINDER = tuple(f"{directory.FINDER}/{name}" for name in (*finder.FILES, *finder.OPTIONAL))
_IGNORED = ("*/*", directory.OTHER_LAYOUT)
"""Folders hold ONNX exports, original checkpoints and training states."""
_Result = TypeVar("_Result")


def download(name: str, revision: str | None = None) -> Path:
    """The folder of the local cache with a model's files, after fetching those that are not there yet.

    Args:
        name: "owner/name".
        revision: branch, tag or commit; None for the main branch.

    Raises:
        ModelError: with what to do: log in, accept terms, check the name, connect.
    """
    folder = download_settings(name, revision)
    _fetch(name, folder.name, directory.index_names(folder) or _WEIGHTS)
    if not any(folder.glob(_WEIGHTS[0])):
        _refuse_without_weights(name, folder.name)
    return folder


def download_settings(name: str, revision: str | None = None) -> Path:
    """The same folder with everything but weights."""
    folder = _fetch(name, revision, _SMALL)
    if not (folder / directory.CONFIG).is_file():
        raise ModelError(f"{name}: has no {directory.CONFIG} in its main folder; this is not a model to convert")
    if directory.is_rave_directory(folder):
        # What an export needs.
        _fetch(name, folder.name, [f"{directory.HUB}/*.json", *_FINDER], ignored=())
    return folder


def read_headers(name: str, folder: Path) -> dict[str, Entry]:
    """What the weight files of a model on the Hub hold, by reading their headers only.

    Args:
        name: "owner/name".
        folder: what `download_settings` gave.

    Raises:
        ModelError: as for `download`, and for malformed files.
    """
    from huggingface_hub import HfApi

    api, commit = HfApi(), folder.name
    files = directory.index_names(folder)
    if not files:
        listed = asking(lambda: api.list_repo_files(name, revision=commit), name)
        files = [f for f in listed if Path(f).match(_WEIGHTS[0]) and not any(Path(f).match(p) for p in _IGNORED)]
    if not files:
        _refuse_without_weights(name, commit)
    entries: dict[str, Entry] = {}
    for file in files:
        request = partial(api.parse_safetensors_file_metadata, name, file, revision=commit)
        for tensor, info in asking(request, name).tensors.items():
            entries[tensor] = _read_info(tensor, info, Path(name) / file)
    return entries


def _read_info(tensor: str, info: TensorInfo, file: Path) -> Entry:
    """A tensor that the client read from a header; what stands there it hands on as it is."""
    shape, offsets = info.shape, info.data_offsets
    if not all(isinstance(v, (list, tuple)) and all(type(n) is int for n in v) for v in (shape, offsets)):
        raise ModelError(f"{file}: the header of tensor {tensor[:80]!r} is malformed; choose another model or revision")
    entry = read_entry(tensor, str(info.dtype), shape, file)
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * entry.dtype.size:
        raise ModelError(
            f"{file}: tensor {tensor} has not the bytes that {info.dtype} {list(shape)} needs; choose another model or "
            "revision"
        )
    return entry


def provenance(folder: Path) -> tuple[str, str] | None:
    """Hub id and commit of a folder in the Hub's cache; None for other folders."""
    repository = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not repository.startswith("models--"):
        return None
    return repository.removeprefix("models--").replace("--", "/", 1), folder.name


def asking(
    request: Callable[[], _Result], name: str, revision: str | None = None, what: str = "model"
) -> _Result:  # fmt: skip
    """The result of a request about model `name`; its failures become a line that says what to do.

    Args:
        request: asks the Hub.
        name: of what is asked for.
        revision: branch, tag or commit.
        what: it is, where that is no model.

    Raises:
        ModelError: for what the Hub, the network or the disk refuses.
    """
    from huggingface_hub import errors

    try:
        with _quiet_unless_terminal():
            return request()
    except errors.GatedRepoError:
        reason = "its owner asks you to accept terms: do so on its Hub page, then run `hf auth login`"
    except errors.RepositoryNotFoundError:
        reason = f"the Hub has no such {what}, or it is private: check the name, or run `hf auth login`"
    except errors.RevisionNotFoundError:
        reason = f"the {what} has no revision {revision!r}"
    except errors.LocalEntryNotFoundError:
        reason = (
            "it is not in the local cache and the Hub cannot be reached; connect (and unset HF_HUB_OFFLINE) and run "
            "the command again, or give a local directory"
        )
    except (errors.EntryNotFoundError, errors.SafetensorsParsingError, ValueError) as error:
        reason = _line(error)
    # HTTPError is that of whichever HTTP library the client uses; RuntimeError a part of an upload that failed.
    except (errors.HTTPError, OSError, RuntimeError) as error:  # type: ignore[attr-defined]
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        reason = f"the Hub or the way to it failed ({_line(cause)}); run the command again to go on where it stopped"
    raise ModelError(f"{name}: {reason}")


def _fetch(name: str, revision: str | None, patterns: Iterable[str], ignored: Iterable[str] = _IGNORED) -> Path:
    from huggingface_hub import snapshot_download

    allowed, left = list(patterns), list(ignored)
    return Path(
        asking(
            lambda: snapshot_download(name, revision=revision, allow_patterns=allowed, ignore_patterns=left),
            name,
            revision,
        )
    )


def _refuse_without_weights(name: str, commit: str) -> None:
    """Say what there is instead."""
    from huggingface_hub import HfApi

    files = asking(lambda: HfApi().list_repo_files(name, revision=commit), name)
    pickles = [f for f in files if any(Path(f).match(p) for p in PICKLES)]
    if pickles:
        raise ModelError(
            f"{name}: only pickled weights ({pickles[0]}), which can run code and are never opened; look for a "
            "version of the model with *.safetensors files"
        )
    raise ModelError(f"{name}: has no *.safetensors files in its main folder; choose another model or revision")


@contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """The client's progress bars are for people."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
