"""Checkpoints as they are published: settings, and names, shapes and types of every tensor, are read without a rest.

Each file of `tests/published` holds what a model's repository says of it: config.json, generation_config.json, the
processor's settings, tensor names of model.safetensors.index.json (numbers folded: `{0-27}`), and the bytes of all
weights that the index states. Shapes are those of transformers 5 for that configuration; their bytes are the index's
(that of DeepSeek-OCR 2 states 1,010,688 more, for a reason that is not known).
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from rave_mlx.config import LMMConfig
from rave_mlx.convert.expert_tensors import ExpertTensors
from rave_mlx.convert.families import detect
from rave_mlx.convert.plausible import check_plausible
from rave_mlx.convert.source import Source
from rave_mlx.convert.split_tensors import SplitTensors
from rave_mlx.convert.tensor_names import modern_names
from rave_mlx.convert.tied_head import settle_head
from rave_mlx.convert.translate import Translation
from rave_mlx.errors import ModelError
from rave_mlx.models.connectors import build_connector
from rave_mlx.models.decoder import Decoder
from rave_mlx.models.vision import build_tower

FACTS = {file.stem: json.loads(file.read_text(encoding="utf-8"))
         for file in sorted((Path(__file__).parents[1] / "published").glob("*.json"))}  # fmt: skip
TYPES = {"BF16": mx.bfloat16, "U32": mx.uint32}
PARAMETERS = {
    "cosmos-reason2-8b": 8_767_123_696,
    "deepseek-ocr-2": 3_389_119_360,
    "devstral-small-2507": 23_572_403_200,
    "granite-docling-258m": 257_517_120,
    "medgemma-27b": 27_432_406_640,
    "olmocr-7b-0225": 8_291_375_616,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-14b-mlx-4bit": 14_768_307_200,
    "qwen3.5-18b-a3b-reap": 18_543_997_568,
    "qwen3.8-27b-mlx": 27_356_728_560,
}
"""Numbers of weights that transformers counts."""


def unfolded(pattern: str) -> Iterator[str]:
    """All names of a pattern: `layers.{0-1,3}.weight` has three."""
    parts = re.split(r"\{([\d,-]+)\}", pattern)
    numbers = [[n for span in part.split(",") for n in _span(span)] for part in parts[1::2]]
    for chosen in itertools.product(*numbers):
        yield "".join(itertools.chain(*itertools.zip_longest(parts[::2], map(str, chosen), fillvalue="")))


def _span(span: str) -> range:
    first, _, last = span.partition("-")
    return range(int(first), int(last or first) + 1)


def published(name: str) -> Source:
    """The checkpoint, its tensors standing for their shapes."""
    fact = FACTS[name]
    tensors = {tensor: mx.zeros(shape, TYPES[kind])
               for pattern, (shape, kind) in fact["tensors"].items() for tensor in unfolded(pattern)}  # fmt: skip
    return Source(Path(name), fact["config"], fact["generation"] or {}, fact["processor"] or {}, tensors)


def read(source: Source) -> tuple[LMMConfig, Translation]:
    """The configuration and where every weight lies."""
    family = detect(source.config, "config.json")
    config = LMMConfig.from_dict(family.config(source).to_dict())
    check_plausible(config, source)
    weights = replace(source, tensors=SplitTensors(source.tensors, family.stacked)) if family.stacked else source
    if family.restored is not None:
        weights = replace(weights, tensors=family.restored(weights.tensors))
    if config.text.experts is not None:
        weights = replace(weights, tensors=ExpertTensors(weights.tensors, config.text, str(source.path)))
    config, names = settle_head(weights, family, config, modern_names(weights, family, config))
    parts = {"decoder": Decoder(config)}
    if config.vision is not None:
        parts |= {"vision": build_tower(config.vision), "connector": build_connector(config.connector, config.vision)}
    expected = {f"{part}.{key}": weight for part, module in parts.items() if module is not None
                for key, weight in tree_flatten(module.parameters())}  # fmt: skip
    return config, Translation.read(weights, family, config, expected, names)


@pytest.mark.parametrize("name", FACTS)
def test_everything_is_read(name):
    fact, source = FACTS[name], published(name)
    _, translation = read(source)
    assert sum(math.prod(weight.shape) for weight in translation.expected.values()) == PARAMETERS[name]
    if fact["total_size"]:
        assert sum(tensor.nbytes for tensor in source.tensors.values()) == fact["total_size"]


@pytest.mark.parametrize("name", ["olmocr-7b-0225", "medgemma-27b", "qwen3.5-18b-a3b-reap", "qwen3.8-27b-mlx"])
def test_a_tensor_that_is_missing_or_strange_is_named(name):
    source = published(name)
    lost = next(tensor for tensor in source.tensors if ".3.input_layernorm" in tensor)
    fewer = replace(source, tensors={k: v for k, v in source.tensors.items() if k != lost})
    with pytest.raises(ModelError, match=r"layers\.3\.input_layernorm"):
        read(fewer)
    more = replace(source, tensors=dict(source.tensors) | {"model.extra_head.weight": mx.zeros((8, 8), mx.bfloat16)})
    with pytest.raises(ModelError, match="extra_head"):
        read(more)


def test_settings_of_fine_tunes_and_packages():
    """What each of these repositories states, and a mistake would not fail on."""
    config, _ = read(published("granite-docling-258m"))
    assert (config.text.rope.theta, config.text.tie_embeddings, config.image.tile_size) == (1e5, True, 512)
    config, translation = read(published("qwen3.8-27b-mlx"))
    packed = translation.quantization()
    assert packed.bits == 4 and packed.group_size == 32
    config, _ = read(published("medgemma-27b"))
    assert config.text.sliding_window == 1024 and config.image.tile_tokens == 256
    config, _ = read(published("qwen3.5-18b-a3b-reap"))
    assert (config.text.experts.count, config.text.experts.chosen) == (128, 8)
