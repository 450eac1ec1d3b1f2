"""Rave directories and loading: what is written comes back; what is broken is refused with its name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from support import ask, picture, relative, tiny_model

import rave_mlx
from rave_mlx import backend
from rave_mlx.backend.system import Memory
from rave_mlx.checkpoint import build, directory, safetensors_writer
from rave_mlx.config import ConnectorConfig, GateConfig, QuantizationConfig
from rave_mlx.errors import ConfigError, MemoryLimitError, ModelError, RaveError


def save(lmm, folder, config=None, tensors=None):
    built_in = directory.BUILT_IN
    directory.write(folder, config or lmm.config, tree_flatten(lmm.parameters()) if tensors is None else tensors,
                tokenizer=built_in / "tokenizer.json", template=(built_in / "chat_template.jinja").read_text(),
                card="# card\n")  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    save(tiny_model(GateConfig(rank=3)), tmp_path / "model")
    return tmp_path / "model"


def test_a_directory_gives_the_same_model_back(folder, tmp_path):
    lmm = tiny_model(GateConfig(rank=3))
    again = rave_mlx.load(folder)
    assert again.config == lmm.config
    prompt = lmm.prepare([ask("Read.", picture())])
    assert (np.array(lmm.logits(prompt)) == np.array(again.logits(prompt))).all()


def test_weights_are_split_into_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_writer, "SHARD_BYTES", 40_000)
    lmm = tiny_model()
    save(lmm, tmp_path / "model")
    shards = sorted(p.name for p in (tmp_path / "model").glob("*.safetensors"))
    assert len(shards) > 3
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    again = dict(tree_flatten(rave_mlx.load(tmp_path / "model").parameters()))
    assert all((np.array(a) == np.array(again[n])).all() for n, a in tree_flatten(lmm.parameters()))


def test_an_existing_directory_is_never_overwritten(folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ModelError, match="already exists"):
        save(tiny_model(), folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_failed_write_leaves_nothing(tmp_path):
    def tensors():
        yield "a", mx.zeros((2,))
        raise OSError("disk full")

    with pytest.raises(ModelError, match="disk full"):
        save(tiny_model(), tmp_path / "model", tensors=tensors())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("expand", [True, False])
@pytest.mark.parametrize(("mode", "group_size", "bits"), [("affine", 32, 8), ("affine", 32, 4), ("mxfp8", 32, 8)])
def test_quantized_weights_expanded_or_not_give_the_same_logits(tmp_path, monkeypatch, expand, mode, group_size, bits):
    sizes = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
    lmm = resized(tiny_model(), sizes)
    quantization = QuantizationConfig(bits=bits, group_size=group_size, mode=mode)
    nn.quantize(lmm.decoder, group_size, bits, mode=mode, class_predicate=lambda p, m: isinstance(m, nn.Linear))
    save(lmm, tmp_path / "model", config=replace(lmm.config, quantization=quantization))
    monkeypatch.setattr(backend, "expand_quantized", lambda stored, expanded: expand)
    again = rave_mlx.load(tmp_path / "model", dtype="float32")
    kinds = {type(m) for _, m in again.decoder.named_modules()}
    assert (nn.QuantizedLinear in kinds) != expand
    prompt = lmm.prepare([ask("Read.", picture())])
    assert relative(again.logits(prompt), lmm.logits(prompt)) <= 1e-4


def resized(lmm, sizes):
    """A random model of other widths: quantization wants multiples of its group size."""
    config = replace(
        lmm.config, text=replace(lmm.config.text, **sizes), connector=ConnectorConfig(128, sizes["hidden_size"])
    )
    built_in = directory.BUILT_IN
    model = build.build(config, built_in / "tokenizer.json", (built_in / "chat_template.jinja").read_text(), None)
    rng = np.random.default_rng(0)
    weights = [
        (n, mx.array(rng.normal(0, 0.2, a.shape).astype(np.float32))) for n, a in tree_flatten(model.parameters())
    ]
    model.load_weights(weights)
    return model


def damage(folder, kind):
    weights = folder / "model.safetensors"
    tensors = dict(mx.load(str(weights)))
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "garbage":
        weights.write_bytes(b"not safetensors at all")
    elif kind == "empty":
        weights.write_bytes(b"")
    elif kind == "huge header":
        weights.write_bytes(b"\xff" * 8 + weights.read_bytes()[8:])
    elif kind == "no weights":
        weights.unlink()
    elif kind in ("no tokenizer", "no template", "no config"):
        (
            folder
            / {"no tokenizer": "tokenizer.json", "no template": "chat_template.jinja", "no config": "config.json"}[kind]
        ).unlink()
    elif kind == "bad tokenizer":
        (folder / "tokenizer.json").write_text("{}")
    elif kind == "bad config":
        (folder / "config.json").write_text('{"format": 1,')
    elif kind == "missing tensor":
        del tensors["decoder.norm.weight"]
        mx.save_safetensors(str(weights), tensors)
    elif kind == "extra tensor":
        mx.save_safetensors(str(weights), tensors | {"decoder.extra": mx.zeros((2,))})
    elif kind == "wrong shape":
        mx.save_safetensors(str(weights), tensors | {"decoder.norm.weight": mx.zeros((2,))})
    elif kind == "wrong dtype":
        mx.save_safetensors(str(weights), tensors | {"decoder.norm.weight": mx.zeros((48,), mx.int32)})
    elif kind == "twice":
        shutil.copy(weights, folder / "other.safetensors")


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("truncated", "model.safetensors"),
        ("garbage", "not a complete safetensors file"),
        ("empty", "not a complete safetensors file"),
        ("huge header", "not a complete safetensors file"),
        ("no weights", "no .*safetensors file"),
        ("no tokenizer", "tokenizer.json is missing"),
        ("no template", "chat_template.jinja is missing"),
        ("no config", "no config.json"),
        ("bad tokenizer", "not a usable tokenizer"),
        ("bad config", "no such|not valid JSON|model type"),
        ("missing tensor", "missing: decoder.norm.weight"),
        ("extra tensor", "unexpected: decoder.extra"),
        ("wrong shape", r"decoder.norm.weight \[2\] instead of \[48\]"),
        ("wrong dtype", "decoder.norm.weight has type"),
        ("twice", "is also in model.safetensors"),
    ],
)
def test_damaged_directories_are_refused(folder, kind, error):
    damage(folder, kind)
    with pytest.raises((ModelError, ConfigError), match=error):
        rave_mlx.load(folder)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("no/such/place", "not a Hub id"),
        ("nowhere", "no such model directory"),
        (__file__, "is a file"),
        ("", "no such model directory|config.json"),
        ("../x/../..", "not a Hub id|no config.json"),
    ],
)
def test_places_that_are_no_model(name, error):
    with pytest.raises(RaveError, match=error):
        rave_mlx.load(name)


def test_an_unsupported_checkpoint_lists_what_is_supported(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba9"}))
    (tmp_path / "model.safetensors").write_bytes((directory.BUILT_IN / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"'mamba9' is not supported; supported: .*qwen2_5_vl"):
        rave_mlx.load(tmp_path)


def test_offline_a_hub_model_says_how_to_get_it(tmp_path):
    """In a process of its own: huggingface_hub reads HF_HUB_OFFLINE when it is imported."""
    code = (
        "import rave_mlx\ntry: rave_mlx.load('Qwen/Qwen2.5-VL-3B-Instruct')\nexcept rave_mlx.RaveError as e: print(e)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "Qwen/Qwen2.5-VL-3B-Instruct: it is not in the local cache" in done.stdout
    assert "unset HF_HUB_OFFLINE" in done.stdout


def test_a_rave_directory_needs_neither_transformers_nor_torch():
    code = (
        "import sys, rave_mlx\n"
        "lmm = rave_mlx.load()\n"
        "text = rave_mlx.generate(lmm, [{'role': 'user', 'content': 'Hi'}], max_tokens=3, temperature=0.5, seed=1)\n"
        "print([m for m in ('transformers', 'torch', 'mlx_lm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(folder, monkeypatch):
    monkeypatch.setattr(backend, "memory", lambda: Memory(total=1000, available=1000))
    with pytest.raises(MemoryLimitError, match=r"the weights of .*model: .* needed, .* available; choose a smaller"):
        rave_mlx.load(folder)
