"""Vision-language models in llama.cpp's two files: logits of the checkpoint that the files were made of.

The names and keys are those of ggml-org/llama.cpp: gguf-py/gguf/tensor_mapping.py and constants.py, and
conversion/{base,qwen2vl,smolvlm,intern_vision}.py, tools/mtmd/legacy-models/convert_image_encoder_to_gguf.py (LLaVA).
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from command import rave
from families import CONVERSATIONS, TEMPLATE, Case, cases, draw, golden, write_checkpoint
from gguf_files import save, settings, text_tensors, vocabulary
from support import relative

import rave_mlx
from rave_mlx.convert import convert, plan
from rave_mlx.convert.exporting import export
from rave_mlx.errors import ModelError

CASES = cases()
WORDS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A template that knows content as text only, as the original InternVL's does."""
CLIP = {
    "embeddings.class_embedding": "v.class_embd", "embeddings.patch_embedding": "v.patch_embd",
    "embeddings.position_embedding": "v.position_embd", "pre_layrnorm": "v.pre_ln", "post_layernorm": "v.post_ln",
    "encoder.layers": "v.blk", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.out_proj": "attn_out", "layer_norm1": "ln1", "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
}  # fmt: skip
INTERN = {
    "embeddings.cls_token": "v.class_embd", "embeddings.position_embeddings": "v.position_embd.weight",
    "embeddings.patch_embeddings.projection": "v.patch_embd", "encoder.layer": "v.blk",
    "attention.q_proj": "attn_q", "attention.k_proj": "attn_k", "attention.v_proj": "attn_v",
    "attention.q_norm": "attn_q_norm", "attention.k_norm": "attn_k_norm", "attention.projection_layer": "attn_out",
    "layernorm_before": "ln1", "layernorm_after": "ln2", "lambda_1": "ls1.weight", "lambda_2": "ls2.weight",
    "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down", "layernorm": "v.post_ln",
    "model.multi_modal_projector.layer_norm": "mm.model.mlp.0",
    "model.multi_modal_projector.linear_1": "mm.model.mlp.1",
    "model.multi_modal_projector.linear_2": "mm.model.mlp.3",
}  # fmt: skip
QWEN = {
    "blocks": "v.blk", "attn.proj": "attn_out", "norm1": "ln1", "norm2": "ln2", "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "merger.ln_q": "v.post_ln", "merger.mlp.0": "mm.0", "merger.mlp.2": "mm.2",
}  # fmt: skip
SIZES = {
    "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size", "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads", "image_size": "image_size", "patch_size": "patch_size",
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """What llama.cpp's converter makes of a case: the text model's tensors by transformers' names, and the rest."""

    case: Case
    text_stem: str
    vision_stem: str
    names: dict[str, str]
    keys: dict[str, Any]
    arch: str = ""
    template: str | None = None
    drop: tuple[str, ...] = ()


def vision(config, **changes):
    """Keys of the tower, from its sizes as CLIP's configuration names them."""
    found = {f"clip.vision.{key}": config[name] for key, name in SIZES.items()}
    return {name: value[0] if isinstance(value, list) else value for name, value in found.items()} | changes


def llava(**changes):
    case = CASES["llava"]
    config = case.config["vision_config"] | {"num_hidden_layers": 3}
    keys = {"clip.projector_type": "mlp", "clip.use_gelu": False, "clip.has_llava_projector": True,
            "clip.has_text_encoder": False, "clip.vision.projection_dim": 32,
            "clip.vision.attention.layer_norm_epsilon": 1e-5, "clip.vision.feature_layer": [3]}  # fmt: skip
    projector = {f"model.multi_modal_projector.linear_{i}": f"mm.{(i - 1) * 2}" for i in (1, 2)}
    # The fourth layer and the norm after it are behind the features, and left out.
    return Made(case, "model.language_model.", "model.vision_tower.", CLIP | projector, vision(config) | keys,
                drop=("post_layernorm", "layers.3."), **changes)  # fmt: skip


def swapped():
    """Files of the legacy script, which called the MLP's first matrix ffn_down, and no layer of features."""
    made = llava()
    keys = {name: value for name, value in made.keys.items() if name != "clip.vision.feature_layer"}
    return replace(made, names=made.names | {"mlp.fc1": "ffn_down", "mlp.fc2": "ffn_up"}, keys=keys)


def idefics3(name):
    case = CASES[name]
    # The activation of every published model, which the file does not hold.
    config = case.config["vision_config"] | {"hidden_act": "gelu_pytorch_tanh"}
    keys = {"clip.projector_type": "idefics3", "clip.use_gelu": True,
            "clip.vision.attention.layer_norm_epsilon": config.get("layer_norm_eps", 1e-6),
            "clip.vision.projector.scale_factor": case.config["scale_factor"],
            "clip.vision.preproc_image_size": case.processor["size"]["longest_edge"],
            "clip.vision.projection_dim": 64}  # fmt: skip
    case = replace(case, config=case.config | {"vision_config": config})
    connector = {"model.connector.modality_projection.proj": "mm.model.fc"}
    return Made(case, "model.text_model.", "model.vision_model.", CLIP | connector, vision(config) | keys)


def internvl(name):
    case = CASES[name]
    config = case.config["vision_config"]
    keys = {"clip.projector_type": "internvl", "clip.use_gelu": True,
            "clip.vision.attention.layer_norm_epsilon": 1e-6, "clip.vision.projector.scale_factor": 2,
            "clip.vision.preproc_min_tiles": 1, "clip.vision.preproc_max_tiles": 6,
            "clip.vision.projection_dim": 64}  # fmt: skip
    return Made(case, "model.language_model.", "model.vision_tower.", INTERN, vision(config) | keys, template=WORDS)


def qwen(name):
    case = CASES[name]
    config = case.config["vision_config"]
    old = "embed_dim" in config
    keys = {
        "clip.projector_type": "qwen2vl_merger" if old else "qwen2.5vl_merger",
        "clip.vision.embedding_length": config["embed_dim" if old else "hidden_size"],
        "clip.vision.feed_forward_length": config["hidden_size" if old else "intermediate_size"],
        "clip.vision.block_count": config["depth"], "clip.vision.attention.head_count": config["num_heads"],
        "clip.vision.image_size": 560, "clip.vision.patch_size": 8, "clip.vision.projection_dim": 64,
        "clip.vision.attention.layer_norm_epsilon": 1e-6, "clip.vision.image_min_pixels": 256,
        "clip.vision.image_max_pixels": 1 << 18,
    }  # fmt: skip
    if not old:
        # The window that every published model has, which the file does not hold.
        config = config | {"window_size": 112}
        keys |= {"clip.use_silu": True, "clip.vision.n_wa_pattern": 2}
        case = replace(case, config=case.config | {"vision_config": config})
    return Made(case, "model.language_model.", "model.visual.", QWEN, keys, arch="qwen2vl")


MADE = {
    "llava": llava(), "llava, legacy names": swapped(), "idefics3": idefics3("idefics3"),
    "smolvlm": idefics3("smolvlm"), "internvl": internvl("internvl"),
    "internvl-normed": internvl("internvl-normed"), "qwen2_vl": qwen("qwen2_vl"),
    "qwen2_5_vl": qwen("qwen2_5_vl"), "qwen2_5_vl-tied": qwen("qwen2_5_vl-tied"),
}  # fmt: skip


def weights(made):
    """The checkpoint's weights in two: the text model's by transformers' names, the others by llama.cpp's."""
    text, tower = {}, {}
    for name, shape in golden(made.case)[0].items():
        array = draw(name, shape)
        if name.startswith(made.text_stem) or name == "lm_head.weight":
            text[name.replace(made.text_stem, "model.")] = array
        elif not any(part in name for part in made.drop):
            tower |= named(made, name, array)
    return text, tower


def named(made, name, array):
    """One tensor of the tower under llama.cpp's names: qkv and the two frames of a patch come apart."""
    short = name.removeprefix(made.vision_stem)
    if ".qkv." in short:
        block, leaf = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(\w+)", short).groups()
        return {f"v.blk.{block}.attn_{p}.{leaf}": x for p, x in zip("qkv", np.split(array, 3), strict=True)}
    if short == "patch_embed.proj.weight":
        return {"v.patch_embd.weight": array[:, :, 0], "v.patch_embd.weight.1": array[:, :, 1]}
    for long in sorted(made.names, key=len, reverse=True):
        short = short.replace(long, made.names[long])
    if short == "v.class_embd":
        array = array.reshape(-1)
    return {short: np.ascontiguousarray(array)}


def write(made, folder, extra=None, **changes):
    """The two files; returns the text model's."""
    case = made.case
    text = {"model_type": "llama", "rms_norm_eps": 1e-6, **case.config["text_config"]}
    arch = made.arch or text["model_type"]
    arrays, tower = weights(made)
    template = made.template or TEMPLATE.replace("IMAGE", case.image_text)
    found = {
        **settings(text, arch),
        **vocabulary(case.special, text["vocab_size"]),
        "tokenizer.chat_template": template,
    }
    levels = {f"clip.vision.{name}": case.processor[name] for name in ("image_mean", "image_std")}
    keys = {"general.architecture": "clip", "general.type": "mmproj", "clip.has_vision_encoder": True,
            **made.keys, **levels, **changes}  # fmt: skip
    folder.mkdir()
    save(
        folder / "mmproj-model-f32.gguf", tower | (extra or {}), {n: typed(v) for n, v in keys.items() if v is not None}
    )
    return save(folder / "model.gguf", text_tensors(text, arrays), found)


def typed(value):
    """A value in the type that llama.cpp's converter gives it."""
    if isinstance(value, str):
        return value
    kinds = {bool: mx.bool_, int: mx.uint32, float: mx.float32}
    return mx.array(value, kinds[type(value[0] if isinstance(value, list) else value)])


@pytest.fixture(params=MADE)
def made(request):
    return MADE[request.param]


def test_the_two_files_answer_as_the_checkpoint(made, tmp_path, capsys):
    original = rave_mlx.load(write_checkpoint(made.case, tmp_path / "hf"))
    lmm = rave_mlx.load(write(made, tmp_path / "gguf"))
    assert "reads images with mmproj-model-f32.gguf" in capsys.readouterr().err
    for name in made.case.conversations:
        expected, found = original.prepare(CONVERSATIONS[name]), lmm.prepare(CONVERSATIONS[name])
        np.testing.assert_array_equal(found.ids, expected.ids)
        if expected.pixels is not None:
            np.testing.assert_allclose(found.pixels, expected.pixels, atol=2e-6)
        assert relative(lmm.logits(found), original.logits(expected)) <= 1e-5


def test_a_rave_directory_and_an_export(tmp_path):
    """What is written answers to the bit as the two files do."""
    file = write(MADE["qwen2_5_vl"], tmp_path / "gguf")
    assert plan(file).config.family == "qwen2_5_vl"
    convert(file, tmp_path / "rave")
    export(tmp_path / "rave", tmp_path / "hf")
    lmm = rave_mlx.load(file)
    expected = np.array(lmm.logits(lmm.prepare(CONVERSATIONS["one image"])))
    for folder in ("rave", "hf"):
        again = rave_mlx.load(tmp_path / folder)
        assert (np.array(again.logits(again.prepare(CONVERSATIONS["one image"]))) == expected).all()
    card = (tmp_path / "rave" / "README.md").read_text()
    assert "model.gguf" in card
    assert "mmproj-model-f32.gguf" in card


REFUSED = {
    "another projector": ({"clip.projector_type": "pixtral"}, {}, "projector 'pixtral' is not supported, only mlp"),
    "another family's": ({"clip.projector_type": "idefics3"}, {}, "belongs to a text model of architecture llama"),
    "LLaVA-NeXT": ({"clip.vision.image_grid_pinpoints": [336, 672]}, {}, "clip.vision.image_grid_pinpoints"),
    "a key": ({"clip.vision.n_merge_again": 2}, {}, "not supported: clip.vision.n_merge_again"),
    "sound": ({"clip.has_audio_encoder": True}, {}, "has an audio encoder"),
    "no tower": ({"clip.has_vision_encoder": None}, {}, "is no vision tower"),
    "a missing size": ({"clip.vision.block_count": None}, {}, "clip.vision.block_count is missing"),
    "a tensor": ({}, {"v.blk.0.extra.weight": np.zeros((2, 2), np.float32)}, "not known: v.blk.0.extra.weight"),
    "too many layers": ({"clip.vision.block_count": 5}, {}, "v.blk.3.attn_q.weight is missing"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what, tmp_path):
    changes, extra, message = REFUSED[what]
    file = write(MADE["qwen2_vl"], tmp_path / "gguf", extra, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        rave_mlx.load(file)
    assert "mmproj-model-f32.gguf" in str(caught.value)


def test_a_text_model_without_the_image_token(tmp_path):
    made = MADE["internvl"]
    file = write(replace(made, case=replace(made.case, special=("<img>", "</img>"))), tmp_path / "gguf")
    with pytest.raises(ModelError, match=r"model\.gguf: has no token '<IMG_CONTEXT>'"):
        rave_mlx.load(file)


def test_which_tower_is_taken(tmp_path):
    """The only one beside the text model; of several, the one that is named; without any, text is read."""
    file = write(MADE["qwen2_vl"], tmp_path / "gguf")
    tower = file.with_name("mmproj-model-f32.gguf")
    with pytest.raises(ModelError, match="is a vision tower"):
        rave_mlx.load(tower)
    second = tower.rename(tower.with_name("mmproj-b.gguf"))
    shutil.copy(second, tower.with_name("mmproj-a.gguf"))
    with pytest.raises(ModelError, match=r"several vision towers lie beside it \(mmproj-a\.gguf, mmproj-b\.gguf\)"):
        rave_mlx.load(file)
    lmm = rave_mlx.load(file, mmproj=second)
    prompt = lmm.prepare(CONVERSATIONS["text"])
    assert lmm.config.family == "qwen2_vl"
    for name in ("mmproj-a.gguf", "mmproj-b.gguf"):
        (tmp_path / "gguf" / name).rename(tmp_path / name)
    alone = rave_mlx.load(file)
    assert alone.config.vision is None
    assert relative(alone.logits(alone.prepare(CONVERSATIONS["text"])), lmm.logits(prompt)) <= 1e-6
    with pytest.raises(ModelError, match=r"elsewhere\.gguf: no such file"):
        rave_mlx.load(file, mmproj="elsewhere.gguf")
    with pytest.raises(ModelError, match="mmproj goes with a GGUF file"):
        rave_mlx.load(mmproj=tmp_path / "mmproj-a.gguf")


def test_the_command_line(tmp_path):
    """Several towers lie beside the model: one is named, for chat and for convert."""
    file = write(MADE["qwen2_vl"], tmp_path / "gguf")
    tower = file.with_name("mmproj-model-f32.gguf")
    shutil.copy(tower, tower.with_name("mmproj-other.gguf"))

    ask = ("chat", "--model", file, "--prompt", "Hi", "--max-tokens", "2")
    done = rave(*ask)
    assert (done.returncode, done.stdout) == (1, "")
    assert "several vision towers lie beside it" in done.stderr
    assert rave(*ask, "--mmproj", tower).returncode == 0
    done = rave("convert", file, tmp_path / "rave", "--mmproj", tower)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'rave'}\n"), done.stderr
    assert rave_mlx.load(tmp_path / "rave").config.family == "qwen2_vl"
    planned = rave("convert", file, "--dry-run", "--mmproj", tower)
    assert "qwen2_vl" in planned.stdout
