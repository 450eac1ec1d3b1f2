"""What GGUF files of other programs have around a model: several files, settings that change nothing, lists."""

from __future__ import annotations

import struct
import subprocess
import sys

import gguf
import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, golden, kept_positions
from gguf_files import metadata, tensors, write
from support import relative

import rave_mlx
from rave_mlx.convert import convert, plan
from rave_mlx.convert.gguf.container import read_file, read_files
from rave_mlx.errors import ModelError, RaveError

CASE = cases()["qwen2"]


def answers(path):
    """The file gives the checkpoint's logits."""
    lmm = rave_mlx.load(path)
    prompt = lmm.prepare(CONVERSATIONS["text"])
    found = lmm.logits(prompt)[0, kept_positions(len(prompt))]
    assert relative(found, golden(CASE)[1]["text"]) <= 1e-5


def split(folder, count=3, **changes):
    """The model in several files, as llama.cpp's gguf-split writes it: settings in the first, tensors in all."""
    arrays = tensors(CASE)
    names = list(arrays)
    files = []
    for number in range(count):
        found = {
            "split.no": mx.array(number, mx.uint16), "split.count": mx.array(count, mx.uint16),
            "split.tensors.count": mx.array(len(names), mx.int32), **(metadata(CASE) if not number else {}),
        } | changes.get(f"part{number}", {})  # fmt: skip
        files.append(folder / f"model-{number + 1:05d}-of-{count:05d}.gguf")
        mx.save_gguf(str(files[-1]), {n: arrays[n] for n in names[number::count]}, found)
    return files


def test_several_files(tmp_path):
    files = split(tmp_path)
    answers(files[0])
    assert read_files(files[0]).files == tuple(files)
    convert(files[0], tmp_path / "rave", hashes=True)
    card = (tmp_path / "rave" / "README.md").read_text()
    assert all(file.name in card for file in files)
    assert plan(files[0]).before == sum(a.nbytes for a in tensors(CASE).values())


def test_another_part(tmp_path):
    files = split(tmp_path)
    with pytest.raises(ModelError, match=r"model-00002-of-00003\.gguf: is one of 3 files .* model-00001-of-00003"):
        rave_mlx.load(files[1])
    renamed = files[0].rename(tmp_path / "model.gguf")
    with pytest.raises(ModelError, match=r"its name does not end in -00001-of-00003\.gguf"):
        rave_mlx.load(renamed)


def test_a_part_is_missing(tmp_path):
    files = split(tmp_path)
    files[2].unlink()
    with pytest.raises(ModelError, match=r"lies in 3 files, and model-00003-of-00003\.gguf is not beside this one"):
        rave_mlx.load(files[0])


def test_a_part_of_another_model(tmp_path):
    files = split(tmp_path, part1={"split.no": mx.array(2, mx.uint16)})
    with pytest.raises(ModelError, match=r"model-00002-of-00003\.gguf: is not part 2 of 3 by its settings"):
        rave_mlx.load(files[0])
    split(tmp_path, part0={"split.tensors.count": mx.array(7, mx.int32)})
    with pytest.raises(ModelError, match="hold .* tensors instead of 7"):
        rave_mlx.load(files[0])
    split(tmp_path)
    files[1].write_bytes(files[1].read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"model-00002-of-00003\.gguf: cannot be read as GGUF"):
        rave_mlx.load(files[0])


def test_two_parts_with_one_tensor(tmp_path):
    files = split(tmp_path)
    arrays = {"output_norm.weight": mx.zeros((64,)), **dict(mx.load(str(files[2])))}
    part = {"split.no": mx.array(2, mx.uint16), "split.count": mx.array(3, mx.uint16)}
    mx.save_gguf(str(files[2]), arrays | {"token_embd.weight": mx.zeros((2, 2))}, part)
    with pytest.raises(ModelError, match=r"model-00003-of-00003\.gguf: tensor \S+ is in an earlier part too"):
        rave_mlx.load(files[0])


def setting(name, value, kind=mx.uint32):
    return {f"qwen2.{name}": value if isinstance(value, str) else mx.array(value, kind)}


NEUTRAL = {
    "no experts": setting("expert_count", 0) | setting("expert_used_count", 0),
    "unscaled": setting("logit_scale", 1.0, mx.float32) | setting("residual_scale", 1.0, mx.float32),
    "no caps": setting("attn_logit_softcapping", 0.0, mx.float32),
    "lists": setting("attention.head_count_kv", [2, 2, 2]) | setting("feed_forward_length", [96, 96, 96])
    | setting("attention.head_count", [4, 4, 4]),
    "the whole head turns": setting("rope.dimension_count", 16) | setting("attention.value_length", 16),
    "no scaling": setting("rope.scaling.type", "none") | setting("rope.scaling.finetuned", 0),
    "no window": setting("attention.sliding_window", 0),
    "causal": setting("attention.causal", True, mx.bool_),
    "layers without experts": setting("expert_count", [0, 0, 0]),
    "metadata": {"general.quantized_by": "somebody", "quantize.imatrix.file": "x.dat", "general.tags": ["a", "b"],
                 "tokenizer.ggml.add_bos_token": mx.array(False)},
}  # fmt: skip


@pytest.mark.parametrize("what", NEUTRAL)
def test_settings_that_change_nothing(what, tmp_path):
    answers(write(tmp_path / "model.gguf", CASE, **NEUTRAL[what]))


REFUSED = {
    "experts": (setting("expert_count", 8), "not supported: qwen2.expert_count"),
    "a cap": (setting("final_logit_softcapping", 30.0, mx.float32), "qwen2.final_logit_softcapping"),
    "a scale": (setting("residual_scale", 0.5, mx.float32), "qwen2.residual_scale"),
    "a window": (setting("attention.sliding_window", 4), "qwen2.attention.sliding_window 4 is not supported"),
    "an unknown one": (setting("attention.new_trick", 1), "qwen2.attention.new_trick"),
    "other layers": (setting("feed_forward_length", [96, 64, 96]), "feed_forward_length differs from layer to layer"),
    "a short list": (setting("attention.head_count_kv", [2, 2]), r"head_count_kv is \[2, 2\], which makes no sense"),
    "part of a head": (setting("rope.dimension_count", 8), "rope.dimension_count 8 differs from the width of a head"),
    "a text": (setting("rope.freq_base", "high"), "rope.freq_base is 'high', which is no number"),
    "longrope without factors": (setting("rope.scaling.type", "longrope"), "rope_factors_short.weight is missing"),
    "bidirectional": (setting("attention.causal", False, mx.bool_), "qwen2.attention.causal"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_settings_that_change_the_model(what, tmp_path):
    changes, message = REFUSED[what]
    with pytest.raises(RaveError, match=message):
        rave_mlx.load(write(tmp_path / "model.gguf", CASE, **changes))


def test_yarn_as_llama_cpp_multiplies_it(tmp_path):
    """Its factors of cos and sin multiply yarn's own, 0.1 ln(4) + 1; transformers' key replaces it."""
    case = cases()["qwen2-yarn"]
    changes = {"qwen2.rope.scaling.attn_factor": mx.array(0.5, mx.float32),
               "qwen2.rope.scaling.yarn_beta_fast": mx.array(16.0, mx.float32)}  # fmt: skip
    scaling = rave_mlx.load(write(tmp_path / "model.gguf", case, **changes)).config.text.rope.scaling
    assert scaling.attention_factor == pytest.approx(0.5 * (0.1 * np.log(4) + 1))
    assert (scaling.beta_fast, scaling.beta_slow) == (16.0, 1.0)


def test_without_the_package(tmp_path):
    path = write(tmp_path / "model.gguf", CASE)
    code = (
        "import sys; sys.modules['gguf'] = None\n"
        "import rave_mlx\n"
        "try: rave_mlx.load(sys.argv[1])\n"
        "except rave_mlx.RaveError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout == f"{path}: the gguf package reads GGUF files: pip install 'rave-mlx[gguf]'\n"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (struct.pack("<IIQ", 9, 0, 1 << 60), "it ends within a value"),
        (struct.pack("<IIQ", 9, 8, 1 << 60), "it ends within a list|buffer"),
        (struct.pack("<IIQIQ", 9, 9, 1, 4, 1), "a list of arrays"),
        (struct.pack("<IQ", 8, 1 << 62), "it ends within a value"),
        (struct.pack("<I", 77), "77 is not a valid GGUFValueType"),
    ],
)
def test_values_longer_than_the_file(value, message, tmp_path):
    """The package itself would loop, or return what is there."""
    path = tmp_path / "model.gguf"
    name = b"general.x"
    path.write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(name)) + name + value + bytes(50))
    with pytest.raises(ModelError, match=message):
        read_file(path)


def test_lists_are_whole(tmp_path):
    """They are read in one go, past the package's own way."""
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "qwen2")
    tokens = [f"token {i}" for i in range(20_000)]
    writer.add_token_list(tokens)
    writer.add_token_scores([i / 2 for i in range(20_000)])
    writer.add_float32("qwen2.rope.freq_base", 1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    settings, _ = read_file(tmp_path / "model.gguf")
    assert settings["tokenizer.ggml.tokens"] == tokens
    assert settings["tokenizer.ggml.scores"] == [i / 2 for i in range(20_000)]
    assert settings["qwen2.rope.freq_base"] == 1e-5
