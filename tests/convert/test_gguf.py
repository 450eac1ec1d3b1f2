"""GGUF files: tiny models written as llama.cpp's converter writes them, their packings, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import gguf
import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, golden, kept_positions, write_checkpoint
from gguf_files import add, metadata, tensors, write
from support import relative

import rave_mlx
from rave_mlx.convert import convert
from rave_mlx.convert.families import detect
from rave_mlx.convert.gguf import read_gguf
from rave_mlx.convert.gguf.blocks import PACKED, parts
from rave_mlx.convert.gguf.container import Stored
from rave_mlx.errors import ModelError, RaveError

CASES = cases()
MODELS = ("llama", "llama-tied", "llama-llama3", "llama-linear", "mistral", "mistral-sliding", "qwen2", "qwen2-yarn",
          "qwen3", "phi3", "phi3-longrope-short", "phi3-longrope-long")  # fmt: skip


@pytest.fixture(params=MODELS)
def case(request):
    return CASES[request.param]


def test_logits(case, tmp_path):
    """The checkpoint's tokens through the file's weights, and the file's own tokenizer and template."""
    lmm = rave_mlx.load(write(tmp_path / "model.gguf", case))
    original = rave_mlx.load(write_checkpoint(case, tmp_path / "hf"))
    _, logits = golden(case)
    prompt = original.prepare(CONVERSATIONS["text"])
    found = lmm.logits(prompt)[0, kept_positions(len(prompt))]
    assert relative(found, logits["text"]) <= 1e-5
    text = "Größe: 12.5 cm\n\t-> naïve 日本 🙂 <|im_end|>"
    assert lmm.tokenizer.encode(text)[0] == original.tokenizer.encode(text)[0]
    assert lmm.config.text.max_positions == original.config.text.max_positions


def test_a_rave_directory_and_an_export(tmp_path):
    from rave_mlx.convert.exporting import export

    case = CASES["llama"]
    lmm = rave_mlx.load(write(tmp_path / "model.gguf", case))
    convert(tmp_path / "model.gguf", tmp_path / "rave")
    export(tmp_path / "rave", tmp_path / "hf")
    prompt = lmm.prepare(CONVERSATIONS["text"])
    expected = np.array(lmm.logits(prompt))
    for folder in ("rave", "hf"):
        again = rave_mlx.load(tmp_path / folder)
        assert (np.array(again.logits(again.prepare(CONVERSATIONS["text"]))) == expected).all()
    assert json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"
    assert "model.gguf" in (tmp_path / "rave" / "README.md").read_text()


@pytest.mark.parametrize("pack", ["Q4_0", "Q4_1", "Q8_0", "mixed"])
def test_packed_weights_stay_packed(pack, tmp_path):
    """Files that the `gguf` package packed: the numbers are the ones it unpacks."""
    case, path = CASES["llama"], tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in metadata(case).items():
        if name != "general.architecture":
            add(writer, name, value)
    expected = {}
    for name, weights in tensors(case).items():
        plain = np.array(weights)
        kind = {"mixed": "Q8_0" if "ffn" in name else "Q4_1"}.get(pack, pack)
        quantized = plain.ndim == 2
        expected[name] = plain
        if not quantized:
            writer.add_tensor(name, plain)
            continue
        kind = gguf.GGMLQuantizationType[kind]
        data = gguf.quants.quantize(plain, kind)
        expected[name] = gguf.quants.dequantize(data, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    mx.save_gguf(str(tmp_path / "plain.gguf"), {n: mx.array(x) for n, x in expected.items()}, metadata(case))
    lmm, plain = rave_mlx.load(path), rave_mlx.load(tmp_path / "plain.gguf")
    setting = lmm.config.quantization
    bits = {"Q8_0": 8}.get(pack, 4)
    assert (setting.bits, setting.group_size, setting.mode) == (bits, 32, "affine")
    assert setting.of("decoder.layers.1.mlp.up_proj").bits == (8 if pack == "mixed" else bits)
    assert plain.config.quantization is None
    prompt = lmm.prepare(CONVERSATIONS["text"])
    assert relative(lmm.logits(prompt), plain.logits(prompt)) <= 1e-5
    convert(path, tmp_path / "rave")
    again = rave_mlx.load(tmp_path / "rave")
    assert again.config == lmm.config
    assert (np.array(again.logits(prompt)) == np.array(lmm.logits(prompt))).all()


KINDS = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
         "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0",
         "MXFP4"]  # fmt: skip
SCALES = {"F32": (), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2),
          "Q5_K": (0, 2), "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,), "IQ1_M": (), "MXFP4": ()}  # fmt: skip
"""Where the float16 scales of a block lie; at its first byte where nothing is said."""


@pytest.mark.parametrize("name", KINDS)
def test_every_packing(name):
    """Random bytes with sane scales, against the unpacking of the `gguf` package."""
    rng, kind = np.random.default_rng(0), gguf.GGMLQuantizationType[name]
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    shape = (6, 512 // weights, size)
    data = rng.integers(0, 256, shape, dtype=np.uint8)
    for first in SCALES.get(name, (0,)):
        data[..., first : first + 2] = rng.normal(0, 0.01, shape[:2]).astype(np.float16)[..., None].view(np.uint8)
    if name == "F32":
        data = rng.normal(0, 1, shape[:2]).astype(np.float32).view(np.uint8)
    if name == "MXFP4":
        data[..., 0] = rng.integers(120, 132, shape[:2])  # an exponent
    if name == "IQ1_M":
        data[..., 48:56] &= 0x0F  # the scale's float16 lies in the upper halves of four bytes
        data[..., 55] |= 0x20
    data = data.reshape(6, -1)
    expected = gguf.quants.dequantize(data, kind)
    found = parts(Stored(kind, (6, 512), data.view({"F32": np.float32, "F16": np.float16}.get(name, np.uint8))))
    weight = found.pop("weight")
    if kind in PACKED:
        wide = [found[name].astype(mx.float32) for name in ("scales", "biases")]
        weight = mx.dequantize(weight, *wide, group_size=32, bits=PACKED[kind].bits)
    else:
        assert not found
        expected = expected if name in ("F32", "BF16") else expected.astype(np.float16)
    # The scales of Q4_K and Q5_K are products, which are rounded to float16.
    assert relative(weight.astype(mx.float32), expected) <= (5e-4 if name in ("Q4_K", "Q5_K") else 0)


REFUSED = {
    "an architecture": ({"general.architecture": "mamba"}, "architecture 'mamba'"),
    "experts": ({"llama.expert_count": mx.array(8, mx.uint32)}, "llama.expert_count"),
    "a missing size": ({"llama.block_count": None}, "block_count is missing"),
    "heads by layer": (
        {"llama.attention.head_count_kv": mx.array([2, 1, 2], mx.uint32)},
        "differs from layer to layer",
    ),
    "part of a head": ({"llama.rope.dimension_count": mx.array(8, mx.uint32)}, "dimension_count 8"),
    "a rope scaling": ({"llama.rope.scaling.type": "ntk"}, "rope scaling 'ntk'"),
    "another tokenizer": ({"tokenizer.ggml.model": "t5"}, "tokenizer 't5'"),
    "sentencepiece without scores": ({"tokenizer.ggml.model": "llama"}, "scores is missing"),
    "an unknown split": ({"tokenizer.ggml.pre": "poro-chat"}, "'poro-chat'"),
    "no split": ({"tokenizer.ggml.pre": None}, "pre None"),
    "no merges": ({"tokenizer.ggml.merges": None}, "merges is missing"),
    "a merge of nothing": ({"tokenizer.ggml.merges": ["a nothing"]}, "merges do not fit"),
    "no template": ({"tokenizer.chat_template": None}, "base model"),
    "no heads": ({"llama.attention.head_count": mx.array(0, mx.uint32)}, "head_count is 0"),
    "tokens that are numbers": ({"tokenizer.ggml.merges": mx.array([1, 2], mx.uint32)}, "holds something else"),
    "an end that is no token": ({"tokenizer.ggml.eos_token_id": mx.array(272, mx.uint32)}, "272, which is no token"),
    "no end": ({"tokenizer.ggml.eos_token_id": None}, "eos_token_id"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what, tmp_path):
    changes, message = REFUSED[what]
    path = write(tmp_path / "model.gguf", CASES["llama"], **changes)
    with pytest.raises(RaveError, match=message) as caught:
        rave_mlx.load(path)
    assert "model.gguf" in str(caught.value)


def test_a_tensor_that_is_not_known_is_refused(tmp_path):
    weights = tensors(CASES["llama"])
    weights["blk.0.ffn_gate_inp.weight"] = mx.zeros((4, 64))
    with pytest.raises(ModelError, match=r"ffn_gate_inp"):
        read_gguf(write(tmp_path / "model.gguf", CASES["llama"], weights))


def test_mistral_as_llama(tmp_path):
    """llama.cpp writes Mistral as a llama, rows of queries and keys interleaved, and its window where it has one."""
    case = CASES["mistral-sliding"]
    as_llama = replace(case, config=case.config | {"model_type": "llama"})
    changes = {"llama.attention.sliding_window": mx.array(case.config["sliding_window"], mx.uint32)}
    lmm = rave_mlx.load(write(tmp_path / "model.gguf", as_llama, tensors(as_llama), **changes))
    assert lmm.config.text.sliding_window == 6
    prompt = lmm.prepare(CONVERSATIONS["text"])
    found = lmm.logits(prompt)[0, kept_positions(len(prompt))]
    assert relative(found, golden(case)[1]["text"]) <= 1e-5


@pytest.mark.parametrize("keep", [0, 3, 5, 20, 60, 3000, 0.5, 0.999])
def test_an_incomplete_file_is_refused(keep, tmp_path):
    path = write(tmp_path / "model.gguf", CASES["llama"])
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(ModelError, match=r"model\.gguf: cannot be read as GGUF"):
        rave_mlx.load(path)


@pytest.mark.parametrize(("number", "message"), [(15, r"blk\.1\.ffn_up\.weight has type Q8_K, which is not read"),
                                               (99, "99 is not a valid")])  # fmt: skip
def test_types_that_are_not_read_are_named(number, message, tmp_path):
    case = CASES["llama"]
    path = write(tmp_path / "model.gguf", replace(case, config=case.config | {"hidden_size": 256}), wide(case))
    data = path.read_bytes()
    name = b"blk.1.ffn_up.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8
    assert data[at : at + 4] == bytes(4)
    path.write_bytes(data[:at] + bytes([number, 0, 0, 0]) + data[at + 4 :])
    with pytest.raises(ModelError, match=message):
        rave_mlx.load(path)


def wide(case):
    """The case's weights, and rows of 256 in one of them, which every type can have."""
    return tensors(case) | {"blk.1.ffn_up.weight": mx.zeros((96, 256))}


def test_damaged_settings_never_crash(tmp_path):
    """Every byte before the weights matters; a changed one is an error with a message, or another model."""
    path = write(tmp_path / "model.gguf", CASES["llama"])
    data, rng = path.read_bytes(), np.random.default_rng(0)
    end = data.index(b"blk.2.ffn_up.weight")
    refused = 0
    for _ in range(200):
        broken = bytearray(data)
        for place in rng.integers(0, end, rng.integers(1, 4)):
            broken[place] = rng.integers(0, 256)
        path.write_bytes(broken)
        try:
            source = read_gguf(path)
            detect(source.config, str(path)).config(source)
            _ = source.tokenizer
        except RaveError:
            refused += 1
    assert refused > 50


def test_further_ends_of_an_answer(tmp_path):
    changes = {
        f"tokenizer.ggml.{name}_token_id": mx.array(index, mx.uint32) for name, index in (("eot", 5), ("eom", 2))
    }
    assert rave_mlx.load(write(tmp_path / "model.gguf", CASES["llama"], **changes)).config.tokens.stop == (2, 5)


@pytest.mark.parametrize("name", ["models/none.gguf", "none.gguf"])
def test_a_missing_file_is_not_looked_for_on_the_hub(name):
    from rave_mlx.convert import plan
    from rave_mlx.convert.open import find

    for ask in (find, plan):
        with pytest.raises(ModelError, match=r"none\.gguf: no such file"):
            ask(name)
