"""Where models come from: a folder, or the Hub. Tensors are lazy; nothing in a checkpoint is executed."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from rave_mlx import store
from rave_mlx.errors import ModelError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = ["*.json", "*.safetensors", "*.jinja"]
_KEPT = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
SUGGESTED = "Qwen/Qwen2.5-VL-3B-Instruct"
"""A full-size model that this package reads, for messages."""


@dataclass(frozen=True)
class Source:
    """A checkpoint in the Hub's layout, not yet translated.

    Attributes:
        path: its folder.
        config: `config.json`.
        generation: `generation_config.json`, empty without one.
        processor: settings of the image processor, from `preprocessor_config.json` or `processor_config.json`.
        tensors: every tensor by its name in the checkpoint, lazy.
    """

    path: Path
    config: dict[str, Any]
    generation: dict[str, Any]
    processor: dict[str, Any]
    tensors: dict[str, mx.array] = field(repr=False)

    def hub_files(self) -> dict[str, bytes]:
        """Its configuration files, to be kept for an export."""
        return {name: (self.path / name).read_bytes() for name in _KEPT if (self.path / name).is_file()}

    @property
    def tokenizer(self) -> Path:
        """The tokenizer file."""
        return self.path / store.TOKENIZER

    @property
    def template(self) -> str:
        """The chat template, from whichever of its three usual places."""
        file = self.path / store.TEMPLATE
        if file.is_file():
            return file.read_text(encoding="utf-8")
        for name in ("chat_template.json", "tokenizer_config.json"):
            if (self.path / name).is_file():
                template = store.read_json(self.path / name).get("chat_template")
                if isinstance(template, str):
                    return template
        raise ModelError(
            f"{self.path}: no chat template (chat_template.jinja, chat_template.json, tokenizer_config.json)"
        )


def find(wanted: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The local folder of a model: `wanted` itself when it is a folder, else the Hub's snapshot of it.

    Raises:
        ModelError: when there is neither, with what to do.
    """
    path = Path(wanted).expanduser()
    if path.is_dir():
        if not (path / store.CONFIG).is_file():
            raise ModelError(f"{path}: no {store.CONFIG}; this is not a model directory")
        return path
    name = str(wanted)
    if path.exists():
        raise ModelError(f"{path}: is a file; give the model's directory")
    if not _HUB_ID.fullmatch(name):
        raise ModelError(f"{name}: no such model directory, and not a Hub id like {SUGGESTED}")
    return _download(name, revision)


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))
    except GatedRepoError:
        reason = "its owner asks you to accept terms: do so on its Hub page, then run `hf auth login`"
    except RepositoryNotFoundError:
        reason = "the Hub has no such model, or it is private: check the name, or run `hf auth login`"
    except RevisionNotFoundError:
        reason = f"the model has no revision {revision!r}"
    except LocalEntryNotFoundError:
        reason = (
            "it is not in the local cache and the Hub cannot be reached; connect (and unset HF_HUB_OFFLINE) and run "
            f"`hf download {name}` once, or give a local directory"
        )
    except (HfHubHTTPError, OSError) as error:
        reason = f"the download failed ({str(error).splitlines()[0]}); run the command again to resume it"
    raise ModelError(f"{name}: {reason}")


def read(path: Path) -> Source:
    """Open a checkpoint folder.

    Raises:
        ConfigError, ModelError: when a file is missing or malformed.
    """
    config = store.read_json(path / store.CONFIG)

    def optional(name: str) -> dict[str, Any]:
        return store.read_json(path / name) if (path / name).is_file() else {}

    if not list(path.glob("*.safetensors")) and list(path.glob("*.bin")):
        raise ModelError(f"{path}: only pickled weights (*.bin), which are never opened; ask for safetensors")
    _check_index(path)
    return Source(
        path,
        config,
        optional("generation_config.json"),
        optional("preprocessor_config.json") or optional("processor_config.json").get("image_processor", {}),
        store.read_tensors(path),
    )


def _check_index(path: Path) -> None:
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return
    shards = sorted(set(store.read_json(index).get("weight_map", {}).values()))
    missing = [s for s in shards if not (path / s).is_file()]
    if missing:
        raise ModelError(
            f"{path}: {len(missing)} of {len(shards)} weight files are missing ({missing[0]}); download again"
        )
