"""A foreign checkpoint as it was published: settings, tokenizer, template and lazy tensors under its own names.

Nothing in a checkpoint is executed, and only files of its own folder are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.safetensors_reader import Tensors
from rave_mlx.convert.hub import PICKLES, provenance
from rave_mlx.convert.named_templates import read_template, template_files
from rave_mlx.convert.quantization_settings import foreign_method
from rave_mlx.errors import ConfigError, ModelError

SETTINGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Configuration files of a checkpoint that a rave directory keeps for an export."""
SUGGESTED = "Qwen/Qwen2.5-VL-3B-Instruct"
"""A full-size model that this package reads, for messages."""
_OTHER_TOKENIZERS = ("tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "tekken.json")


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
    tensors: Mapping[str, mx.array] = field(repr=False)

    def files(self) -> list[Path]:
        """The files whose content decides what the model answers: settings, tokenizer, template and weights."""
        if self.path.is_file():
            return [self.path]
        settings = (self.path / name for name in (*SETTINGS, directory.TOKENIZER))
        return [*filter(Path.is_file, settings), *template_files(self.path), *weight_files(self.tensors)]

    def hub_files(self) -> dict[str, bytes]:
        """Its configuration files, to be kept for an export."""
        return read_settings(self.path)

    @property
    def name(self) -> str:
        """What to call it: the Hub id, or the folder's name."""
        known = provenance(self.path)
        return self.path.resolve().name if known is None else known[0]

    @property
    def commit(self) -> str | None:
        """The Hub's commit that it is a snapshot of."""
        known = provenance(self.path)
        return None if known is None else known[1]

    @property
    def tokenizer(self) -> Path:
        """The tokenizer file."""
        return self.path / directory.TOKENIZER

    @property
    def template(self) -> str:
        """The chat template, from whichever of its usual places."""
        return read_template(self.path, images=bool(self.processor) or "vision_config" in self.config)


def read_folder(path: Path, tensors: Mapping[str, mx.array] | None = None) -> Source:
    """Open a checkpoint folder.

    Args:
        path: the folder.
        tensors: instead of those in its weight files.

    Raises:
        ConfigError, ModelError: when a file is missing or malformed.
    """
    config = directory.read_json(path / directory.CONFIG)

    def optional(name: str) -> dict[str, Any]:
        return directory.read_json(path / name) if (path / name).is_file() else {}

    if tensors is None:
        _refuse_pickles(path)
    _check_tokenizer(path)
    return Source(
        path,
        config,
        optional("generation_config.json"),
        optional("preprocessor_config.json") or optional("processor_config.json").get("image_processor", {}),
        _open_tensors(path, config) if tensors is None else tensors,
    )


def _open_tensors(path: Path, config: Mapping[str, Any]) -> Tensors:
    """The tensors of a folder; where they cannot be read, the error says so of a quantization, too."""
    try:
        return directory.open_tensors(path)
    except ModelError as error:
        method = foreign_method(config, path)
        if method is None:
            raise
        raise ModelError(f"{error}; {directory.CONFIG} says that it is quantized by {method!r}") from None


def read_settings(folder: Path) -> dict[str, bytes]:
    """The files named in `SETTINGS` that a folder has, each of which must be a JSON object.

    Raises:
        ConfigError: for one that is not.
    """
    found: dict[str, bytes] = {}
    for file in (folder / name for name in SETTINGS):
        if file.is_file():
            # The bytes that were parsed are those that are kept.
            content = file.read_bytes()
            try:
                parsed = json.loads(content)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{file}: not valid JSON ({error})") from None
            if not isinstance(parsed, dict):
                raise ConfigError(f"{file}: expected a JSON object")
            found[file.name] = content
    return found


def weight_files(tensors: Mapping[str, mx.array]) -> list[Path]:
    """The files that lazy tensors lie in; none for placeholders."""
    return sorted({entry.file for entry in tensors.entries.values()}) if isinstance(tensors, Tensors) else []


def _refuse_pickles(path: Path) -> None:
    pickles = sorted(f.name for pattern in PICKLES for f in path.glob(pattern))
    if pickles and not any(path.glob("*.safetensors")):
        raise ModelError(
            f"{path}: only pickled weights ({pickles[0]}), which can run code and are never opened; look for a "
            "version of the model with *.safetensors files"
        )


def _check_tokenizer(path: Path) -> None:
    others = [name for name in _OTHER_TOKENIZERS if (path / name).is_file()]
    if others and not (path / directory.TOKENIZER).is_file():
        raise ModelError(
            f"{path}: has {' and '.join(others)} but no {directory.TOKENIZER}; write it with transformers: "
            f"AutoTokenizer.from_pretrained({str(path)!r}).save_pretrained({str(path)!r})"
        )
