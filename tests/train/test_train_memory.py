"""The memory estimate beside what MLX measures, for decoders of different shapes."""

from __future__ import annotations

import json

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from support import IMAGE, TEXT, VISION, picture, tiny_config

from rave_mlx import backend
from rave_mlx.checkpoint.build import build
from rave_mlx.checkpoint.directory import BUILT_IN
from rave_mlx.config import ConnectorConfig, ExpertsConfig, LinearAttentionConfig, LMMConfig, RopeConfig
from rave_mlx.train.batch import collate
from rave_mlx.train.config import AdapterSettings, TrainConfig
from rave_mlx.train.dataset import open_dataset
from rave_mlx.train.features import FeatureCache
from rave_mlx.train.loss import loss
from rave_mlx.train.memory import _decoder, estimate
from rave_mlx.train.parameters import prepare, trained_weights

# hidden, inner, layers, heads, KV heads, head width, vocabulary
SHAPES = {
    "built-in": (256, 640, 4, 4, 2, 64, 272),
    "deep": (128, 352, 12, 8, 2, 16, 272),
    "wide": (768, 2048, 2, 12, 4, 64, 272),
    "many heads": (448, 1536, 3, 28, 4, 16, 272),
    "vocabulary": (256, 700, 3, 8, 8, 32, 60_000),
    "linear attention": (256, 640, 4, 4, 2, 64, 272, None, LinearAttentionConfig((0, 1, 2), 4, 8, 32, 32)),
    "experts": (128, 352, 4, 8, 2, 16, 272, ExpertsConfig(16, 4, 96)),
}


def model(hidden, inner, layers, heads, kv_heads, width, vocabulary, experts=None, linear=None):
    third = width // 6
    text = {"hidden_size": hidden, "intermediate_size": inner, "num_layers": layers, "num_heads": heads}
    text |= {"num_kv_heads": kv_heads, "head_dim": width, "vocab_size": vocabulary, "experts": experts}
    text |= {"linear": linear, "output_gate": linear is not None}
    rope = RopeConfig(theta=10000.0, sections=(width // 2 - 2 * third, third, third))
    config = LMMConfig(
        family="qwen2_5_vl",
        text=type(TEXT)(**{**vars(TEXT), **text, "rope": rope}),
        tokens=tiny_config().tokens,
        vision=VISION,
        connector=ConnectorConfig(128, hidden),
        image=IMAGE,
    )
    template = (BUILT_IN / "chat_template.jinja").read_text()
    lmm = build(config, BUILT_IN / "tokenizer.json", template, None)
    drawn = [(n, 0.02 * mx.random.normal(x.shape)) for n, x in tree_flatten(lmm.parameters()) if "norm" not in n]
    lmm.load_weights(drawn, strict=False)
    return lmm


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    picture(176, 176).save(folder / "a.png")
    row = {"image": "a.png", "question": "What?", "answer": "Words of an answer. " * 5}
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def measured(lmm, settings, rows):
    """Peak of one micro-batch's gradient above what was there before."""
    batch = collate(list(rows))
    features = FeatureCache(lmm).read(batch.images)
    mx.eval(lmm.parameters(), features)
    mx.clear_cache()
    step = nn.value_and_grad(lmm, lambda: loss(lmm, batch, features, checkpoint=settings.checkpointing)[0])
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    with backend.row_parallel():
        mx.eval(step())
    return mx.get_peak_memory() - before


OPTIONS = {
    "lora": {},
    "checkpointing": {"checkpointing": True},
    "dora": {"adapter": AdapterSettings(kind="dora")},
    "whole": {"adapter": None, "full": ("decoder",)},
}
# What checkpointing keeps depends on the kind of layer, what DoRA adds on the widths: tried where these differ.
EACH = {
    "checkpointing": ("built-in", "deep", "linear attention", "experts"),
    "dora": ("built-in", "wide", "many heads"),
}


@pytest.mark.parametrize(("name", "shape"), [(name, s) for name in OPTIONS for s in EACH.get(name, SHAPES)])
def test_the_estimate_is_near_the_peak(name, shape, data):
    backend.prepare()
    settings = TrainConfig(**OPTIONS[name])
    lmm, _ = prepare(model(*SHAPES[shape]), settings)
    rows = open_dataset(data, lmm)
    assert rows.lengths[0] > 550
    gradients = 4 * sum(x.size for x in trained_weights(lmm).values())
    found = measured(lmm, settings, rows)
    # The tower's share would hide the decoder's: it is not part of this peak.
    expected = _decoder(lmm, settings, rows.lengths[0], rows.stats[0].trained_tokens) + gradients
    assert 0.8 < expected / found < 1.8, (expected, found)
    need = estimate(lmm, settings, rows)
    assert need.activations >= expected - gradients
    assert need.total == need.weights + need.state + need.activations
