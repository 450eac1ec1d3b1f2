"""A head beside tied embeddings: one that differs is used, as in transformers."""

from __future__ import annotations

import json
from functools import cache

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from safetensors.numpy import load_file, save_file
from support import relative

import rave_mlx
from rave_mlx.checkpoint import directory
from rave_mlx.convert import Options, convert, export

CASES = {n: case for n, case in cases().items() if n != "aki"}
ONE_OF_EACH_TYPE = {case.config["model_type"]: n for n, case in reversed(CASES.items())}
HEAD = "lm_head.weight"


def embedding(tensors):
    return next(name for name in tensors if name.endswith("embed_tokens.weight"))


def written(name, folder, edit, **tie):
    """A case whose configuration ties its head, with its tensors changed."""
    write_checkpoint(CASES[name], folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for key, value in (tie or {"tie_word_embeddings": True}).items():
        config[key] = value
    if "text_config" in config:
        config["text_config"].pop("tie_word_embeddings", None)
    file.write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def own(tensors):
    rng = np.random.default_rng(3)
    shape = tensors[embedding(tensors)].shape
    tensors[HEAD] = rng.normal(0, 0.5, shape).astype(np.float32)


def copied(tensors):
    tensors[HEAD] = tensors[embedding(tensors)].copy()


def alone(tensors):
    tensors[HEAD] = tensors.pop(embedding(tensors))


def missing(tensors):
    tensors.pop(HEAD, None)


EDITS = {"own": own, "copied": copied, "alone": alone, "missing": missing}


def logits(lmm, name):
    return np.array(lmm.logits(lmm.prepare(CONVERSATIONS[CASES[name].conversations[0]])))


@cache
def reference_class(name):
    """transformers' class of a case."""
    from parity.golden import hf_model

    return type(hf_model(CASES[name]))


def theirs(folder, name, lmm):
    """Logits of transformers on the same prompt."""
    pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from parity.golden import hf_logits

    case = CASES[name]
    model = reference_class(name).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return hf_logits(case, model, [lmm.prepare(CONVERSATIONS[case.conversations[0]])])


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", sorted(ONE_OF_EACH_TYPE.values()))
def test_logits_are_those_of_transformers(tmp_path, name, edit):
    folder = written(name, tmp_path / "hf", EDITS[edit])
    lmm = rave_mlx.load(folder)
    assert lmm.config.text.tie_embeddings == (edit != "own")
    assert relative(logits(lmm, name), theirs(folder, name, lmm)) <= 1e-5


@pytest.mark.parametrize("name", ["qwen2", "qwen2_5_vl", "smolvlm"])
def test_a_head_of_its_own_survives_conversion_and_export(tmp_path, name):
    folder = written(name, tmp_path / "hf", own)
    expected = logits(rave_mlx.load(folder), name)
    rave = convert(folder, tmp_path / "rave")
    assert not directory.read_config(rave).text.tie_embeddings
    assert np.array_equal(logits(rave_mlx.load(rave), name), expected)
    back = export(rave, tmp_path / "back")
    assert np.array_equal(load_file(back / "model.safetensors")[HEAD], load_file(folder / "model.safetensors")[HEAD])
    # Programs that go by the setting alone would drop the head.
    assert json.loads((back / "config.json").read_text())["tie_word_embeddings"] is False
    assert np.array_equal(logits(rave_mlx.load(back), name), expected)


def test_a_copied_head_is_stored_once(tmp_path):
    rave = convert(written("qwen2", tmp_path / "hf", copied), tmp_path / "rave")
    assert "decoder.head.weight" not in directory.read_tensors(rave)
    assert json.loads((export(rave, tmp_path / "back") / "config.json").read_text())["tie_word_embeddings"] is True


def test_one_value_makes_the_difference_and_types_do_not(tmp_path):
    def one(tensors):
        copied(tensors)
        tensors[HEAD][5, 7] += 1

    def half(tensors):
        name = embedding(tensors)
        tensors[name] = tensors[name].astype(np.float16).astype(np.float32)
        tensors[HEAD] = tensors[name].astype(np.float16)

    assert not rave_mlx.load(written("qwen2", tmp_path / "one", one)).config.text.tie_embeddings
    assert rave_mlx.load(written("qwen2", tmp_path / "half", half)).config.text.tie_embeddings


def test_packed_by_mlx(tmp_path):
    """Head and embedding packed, equal and not; the numbers are those that MLX unpacks."""
    setting = {"group_size": 32, "bits": 8}

    def pack(differ):
        def edit(tensors):
            (own if differ else copied)(tensors)
            for name in (HEAD, embedding(tensors)):
                parts = mx.quantize(mx.array(tensors.pop(name)), **setting)
                for part, x in zip(("weight", "scales", "biases"), parts, strict=True):
                    tensors[name.replace("weight", part)] = np.array(x)

        return edit

    for differ in (True, False):
        folder = written(
            "qwen2", tmp_path / f"packed-{differ}", pack(differ), tie_word_embeddings=True, quantization=setting
        )
        lmm = rave_mlx.load(folder)
        assert lmm.config.text.tie_embeddings != differ
        stored = load_file(folder / "model.safetensors")
        parts = [mx.array(stored[HEAD.replace("weight", part)]) for part in ("weight", "scales", "biases")]
        expected = np.array(mx.dequantize(*parts, **setting))
        found = np.array(lmm.named_weights()["decoder.head.weight" if differ else "decoder.embed.weight"])
        assert relative(found, expected) <= 1e-6


def test_a_quantized_head_of_its_own(tmp_path):
    folder = written("qwen2", tmp_path / "hf", own)
    packed = convert(folder, tmp_path / "rave", quantize=Options(bits=8, group_size=32))
    assert "decoder.head.scales" in directory.read_tensors(packed)
    assert relative(logits(rave_mlx.load(packed), "qwen2"), logits(rave_mlx.load(folder), "qwen2")) <= 0.05
