"""Upload a rave directory to the Hub, through `huggingface_hub`: the files that make it up, and no others."""

from __future__ import annotations

import os
from glob import escape
from importlib.metadata import version
from pathlib import Path

from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.links import check_links
from rave_mlx.convert.hub import HUB_ID, asking
from rave_mlx.convert.stored import read_rave_directory
from rave_mlx.errors import ModelError, UsageError


def check_push(name: str) -> None:
    """See, before hours of work, whether an upload to `name` can be tried at all.

    Raises:
        UsageError: when this is no Hub id.
        ModelError: when nobody is logged in, or the Hub is switched off.
    """
    from huggingface_hub import constants, get_token

    if not HUB_ID.fullmatch(name):
        raise UsageError(f"--push {name}: give OWNER/NAME, the model's place on the Hub")
    if constants.HF_HUB_OFFLINE:
        raise ModelError(f"{name}: nothing can be uploaded while HF_HUB_OFFLINE is set; unset it")
    if get_token() is None:
        raise ModelError(f"{name}: uploading needs an account; run `hf auth login`, or set HF_TOKEN")


def push(folder: str | os.PathLike[str], name: str) -> str:
    """Upload the rave directory `folder` as `name` ("owner/name"), which is created (public) unless it exists.

    Args:
        folder: the rave directory.
        name: the model's place on the Hub.

    Returns:
        The address of the commit.

    Raises:
        UsageError, ModelError: when this cannot be done, with what to do; the directory stays as it is.
    """
    from huggingface_hub import HfApi

    path = Path(folder)
    check_push(name)
    if not directory.is_rave_directory(path):
        raise ModelError(f"{path}: is not a rave directory; convert the model first")
    files = _files(path)
    api = HfApi(library_name="rave-mlx", library_version=version("rave-mlx"))
    asking(lambda: api.create_repo(name, exist_ok=True), name)
    message = "Upload a rave-mlx model directory"
    allowed = [escape(file) for file in files]
    return str(
        asking(
            lambda: api.upload_folder(repo_id=name, folder_path=path, commit_message=message, allow_patterns=allowed),
            name,
        )
    )


def _files(folder: Path) -> list[str]:
    """The files of a rave directory, each of which was read and understood; others are left where they are.

    Raises:
        ConfigError, ModelError: for a directory that is incomplete or malformed, or has links that lead out of it.
    """
    check_links(folder)
    stored = read_rave_directory(folder)
    paths = [*stored.files, *(folder / directory.HUB / name for name in stored.hub)]
    paths += [folder / name for name in (directory.CARD, directory.INDEX) if (folder / name).is_file()]
    return [path.relative_to(folder).as_posix() for path in paths]
