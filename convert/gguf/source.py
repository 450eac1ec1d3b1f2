"""A GGUF file as a checkpoint of transformers would be, packed by MLX where the file is packed (`blocks`).

MLX's own reader of GGUF is not used: it knows fewer types, and gives wrong numbers for Q4_K (MLX 0.32).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from rave_mlx.checkpoint import directory
from rave_mlx.convert.gguf.container import read_files
from rave_mlx.convert.gguf.names import quantization, text_tensors
from rave_mlx.convert.gguf.projector import find_projector, read_projector
from rave_mlx.convert.gguf.template import read_template, with_images
from rave_mlx.convert.gguf.text import read_text
from rave_mlx.convert.gguf.tokenizer import build_tokenizer
from rave_mlx.convert.gguf.vocabulary import Vocabulary
from rave_mlx.convert.source import Source

_IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


@dataclass(frozen=True)
class GgufSource(Source):
    """A GGUF file as a checkpoint; `path` is the file.

    Attributes:
        settings: of the file.
        parts: all files that were read.
        image_text: of a model that reads images: its placeholder, and what a template writes for an image.
    """

    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    parts: tuple[Path, ...] = ()
    image_text: tuple[str, str] | None = None

    def files(self) -> list[Path]:
        """The model's files, the projector's too."""
        return list(self.parts)

    def hub_files(self) -> dict[str, bytes]:
        """Configuration files such as transformers would have written, to be kept for an export."""
        tokens = self.settings["tokenizer.ggml.tokens"]
        text = self.config.get("text_config", self.config)
        names = {key.removesuffix("_id"): tokens[text[key]] for key in _IDS if text.get(key) is not None}
        kept = {
            "config.json": self.config,
            "generation_config.json": self.generation,
            "preprocessor_config.json": self.processor,
            "tokenizer_config.json": {
                "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names
            },
        }  # fmt: skip
        return {name: (json.dumps(data, indent=2) + "\n").encode() for name, data in kept.items() if data}

    @cached_property
    def tokenizer(self) -> Path:
        """The tokenizer in a file of its own."""
        file = Path(tempfile.mkdtemp(dir=_folder().name)) / directory.TOKENIZER
        build_tokenizer(self.path, self.settings).save(str(file))
        return file

    @property
    def template(self) -> str:
        """The chat template."""
        template = read_template(self.path, self.settings)
        return template if self.image_text is None else with_images(template, *self.image_text)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Removed when the program ends: what is made of a source knows its tokenizer by the path alone."""
    return tempfile.TemporaryDirectory(prefix="rave-mlx-")


def open_gguf(path: Path, mmproj: Path | None) -> GgufSource:
    """Open a GGUF file, with the vision tower that `mmproj` holds or that lies beside it.

    Raises:
        ModelError: when a file is incomplete, or has what is not supported.
    """
    contents = read_files(path)
    projector = find_projector(path, mmproj, contents.settings)
    architecture = contents.settings.get("general.architecture", "")
    config = read_text(contents, sections=projector is not None and architecture == "qwen2vl")
    vocabulary = Vocabulary.read(path, contents.settings)
    ids = {key: index for key, name in _IDS.items() if (index := vocabulary.id(name)) is not None}
    generation = {"eos_token_id": vocabulary.ends} if vocabulary.ends else {}
    packed = partial(quantization, contents.tensors, architecture)
    tensors = partial(text_tensors, path, architecture, config, contents.tensors)
    if projector is None:
        named = {"architectures": [f"{config['model_type'].capitalize()}ForCausalLM"]}
        whole = {**config, **ids, **named, **packed("model.")}
        return GgufSource(path, whole, generation, {}, dict(tensors("model.")), contents.settings, contents.files)
    vision = read_projector(projector, architecture, vocabulary)
    whole = {
        **vision.config,
        "tie_word_embeddings": config["tie_word_embeddings"],
        "text_config": {**config, **ids, **vision.text_type},
        **packed(vision.stem),
    }
    return GgufSource(
        path,
        whole,
        generation,
        vision.processor,
        dict(tensors(vision.stem)) | vision.tensors,
        contents.settings,
        (*contents.files, projector),
        vision.image_text,
    )
