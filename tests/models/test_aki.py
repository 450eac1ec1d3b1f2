"""AKI's checkpoint: what it says and what it leaves out. Its numbers are held against torch in tests/parity."""

from __future__ import annotations

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, draw, golden, kept_positions
from families.aki import CASE, CONFIG, write_released
from support import picture, relative, write_image

import rave_mlx
from rave_mlx.chat.session import Session
from rave_mlx.cli.main import app
from rave_mlx.config import ResamplerConfig
from rave_mlx.convert import convert
from rave_mlx.convert.families import detect
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError, ModelError
from rave_mlx.inputs.images.preprocess import cut_patches
from rave_mlx.models.connectors.resampler import Resampler

RELEASED = {k: v for k, v in CONFIG.items() if k not in ("text_config", "vision_config")}
"""config.json as the released checkpoint should have it: two paths, no sizes and no model_type."""
ADDED = ("<s>", "<|assistant|>", "<|end|>", "<|endoftext|>", "<pad>", "<image>", "<|endofchunk|>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_released(tmp_path_factory.mktemp("aki") / "hf")


@pytest.fixture(scope="module")
def lmm(folder):
    return rave_mlx.load(folder)


def test_logits(lmm):
    for name, expected in golden(CASE)[1].items():
        prompt = lmm.prepare(CONVERSATIONS[name])
        assert relative(lmm.logits(prompt)[0, kept_positions(len(prompt))], expected) <= 1e-5, name


def test_a_rave_directory_gives_the_same_logits(folder, lmm, tmp_path):
    convert(folder, tmp_path / "rave")
    converted = rave_mlx.load(tmp_path / "rave")
    assert converted.config == lmm.config
    prompt = lmm.prepare(CONVERSATIONS["two images, two turns"])
    assert (np.array(lmm.logits(prompt)) == np.array(converted.logits(prompt))).all()


def test_chat_answers_from_the_checkpoint_itself(folder, tmp_path, capsys):
    image = write_image(picture(200, 120), tmp_path / "page.png")
    command = [
        "chat",
        "--model",
        str(folder),
        "--image",
        str(image),
        "--prompt",
        "What?",
        "--max-tokens",
        "3",
        "--json",
    ]
    assert app(command, standalone_mode=False) in (None, 0)
    answer = json.loads(capsys.readouterr().out)
    assert 1 <= answer["answer_tokens"] <= 3
    assert answer["visual_tokens"] == 9


def test_a_second_question_reads_only_itself(lmm):
    """What was answered goes in between <|assistant|> and <|end|> as it was written."""
    session = Session(lmm, max_tokens=6, system="Be brief.")
    list(session.send("What is the total?", [picture(200, 120)]))
    first = session.stats
    list(session.send("And the date?"))
    assert (first.images_encoded, session.stats.images_encoded) == (1, 0)
    assert session.stats.reused_tokens >= first.prompt_tokens
    prompt = lmm.prompt(session.messages, add_generation_prompt=False)
    assert len(prompt) <= lmm.config.text.rope.scaling.original_positions, "else all is read again"
    answers = [p.ids for m in session.messages[2::2] for p in m.parts]
    assert len(answers) == 2
    ids, starts = prompt.ids[0].tolist(), np.flatnonzero(prompt.ids[0] == lmm.config.tokens.answer)
    for start, answer in zip(starts, answers, strict=True):
        assert tuple(ids[start + 2 : start + 2 + len(answer)]) == answer


def test_the_prompt(lmm):
    text = lmm.template.render(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}],
        add_generation_prompt=True,
    )
    assert text == (
        "<s><|system|>\nA chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions.<|end|>\n"
        "<|user|>\n<image>\nWhat?<|end|>\n<|assistant|>\n"
    )
    turns = [{"role": r, "content": c} for r, c in (("system", "Be brief."), ("user", "A"), ("assistant", "B"))]
    text = lmm.template.render(turns, add_generation_prompt=False)
    assert text == "<s><|system|>\nBe brief.<|end|>\n<|user|>\nA<|end|>\n<|assistant|>\nB<|end|>\n"


def test_a_template_beside_the_checkpoint_goes_before(folder, tmp_path):
    other = write_released(tmp_path / "hf")
    (other / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0]['content'] }}<|assistant|>")
    prompt = rave_mlx.load(other).prepare([{"role": "user", "content": "Hi"}])
    assert prompt.ids[0, [0, -1]].tolist() == [272, 273]


def released(tmp_path, config=RELEASED, ids=range(32006, 32014), bias=True, **options):
    """The canonical configuration of a checkpoint that names its models."""
    tokens = [{"id": i, "content": c} for i, c in zip([1, 32001, 32007, 32000, *ids[5:]], ADDED, strict=True)]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    tensors = {"lang_model.lm_head.bias": mx.zeros(0)} if bias else {}
    source = Source(tmp_path, {**config, **options}, {}, {}, tensors)
    return detect(source.config, "config.json").config(source)


def test_the_released_configuration(tmp_path):
    config = released(tmp_path, initial_tokenizer_len=32012, pad_token_id=32011, num_vision_tokens=144)
    text, vision, image = config.text, config.vision, config.image
    assert (config.family, config.mask, config.tokens.answer, config.tokens.image) == ("aki", "mutual", 32001, 32012)
    assert (config.tokens.stop, config.tokens.bos, config.tokens.pad) == ((32007, 32001, 32000), 1, 32011)
    assert (text.vocab_size, text.hidden_size, text.num_layers, text.head_dim) == (32014, 3072, 32, 96)
    assert (text.num_kv_heads, text.max_positions, text.head_bias) == (32, 131072, True)
    scaling = text.rope.scaling
    assert (scaling.kind, scaling.original_positions, scaling.factor) == ("longrope", 4096, 32)
    assert (len(scaling.short_factors), len(scaling.long_factors)) == (48, 48)
    assert (sum(scaling.short_factors), sum(scaling.long_factors)) == pytest.approx((83.4699892, 1828.0400798))
    factors = np.array([scaling.short_factors, scaling.long_factors])
    assert (factors == factors.astype(np.float32)).all(), "written in float32"
    assert (np.diff(factors) >= 0).all()
    assert (vision.depth, vision.hidden_size, vision.num_heads, vision.features) == (27, 1152, 16, 729)
    assert (vision.feature_layers, vision.post_norm, vision.activation) == ((-1,), True, "gelu_tanh")
    assert config.connector == ResamplerConfig(1152, 3072, latents=144, depth=6, num_heads=8, head_dim=64)
    assert (image.tile_size, image.tile_tokens, image.mean, image.resample) == (384, 144, (0.5,) * 3, "bicubic")
    assert not released(tmp_path, initial_tokenizer_len=32012, bias=False).text.head_bias


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"lang_model_path": "mistralai/Mistral-7B"}, r"lang_model_path 'mistralai/Mistral-7B' is not one of phi-3.5-"),
        ({"vision_encoder_path": "google/siglip-base"}, r"vision_encoder_path .* add its configuration as 'vision_co"),
        ({"initial_tokenizer_len": None}, r"initial_tokenizer_len is missing"),
        ({"initial_tokenizer_len": 32000}, r"has ids up to 32013, but .* has initial_tokenizer_len 32000"),
        ({"norm_std": 0.0}, r"a channel cannot be divided by 0"),
        ({"n_px": 336}, r"vision.tile_size and image.tile_size differ"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path, options, error):
    with pytest.raises(ConfigError, match=error):
        released(tmp_path, **({"initial_tokenizer_len": 32012} | options))


def test_another_tokenizer_is_refused(folder, tmp_path):
    case = replace(CASE, special=CASE.special[:-2])
    with pytest.raises(ConfigError, match="no token <image>"):
        rave_mlx.load(write_released(tmp_path / "hf", case))


def test_tensors_of_the_wrong_size_are_named(tmp_path):
    tensors = {n: draw(n, s) for n, s in golden(CASE)[0].items()}
    name = "lang_model.model.embed_tokens.additional_embedding.weight"
    tensors[name] = tensors[name][:1]
    with pytest.raises(ModelError, match=r"additional_embedding.weight \[1, 64\] instead of \[2, 64\]"):
        rave_mlx.load(write_released(tmp_path / "hf", tensors=tensors))
    del tensors[name]
    with pytest.raises(ModelError, match=r"missing: lang_model.model.embed_tokens.additional_embedding.weight"):
        rave_mlx.load(write_released(tmp_path / "hf2", tensors=tensors))


def test_settings_of_an_image_processor_go_before(tmp_path):
    folder = write_released(tmp_path / "hf")
    settings = {"image_processor_type": "SiglipImageProcessor", "image_mean": [0.4, 0.5, 0.6], "resample": 2,
                "size": {"height": 45, "width": 45}}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    image = rave_mlx.load(folder).config.image
    assert (image.mean, image.std, image.resample, image.fit) == ((0.4, 0.5, 0.6), (0.5,) * 3, "bilinear", "stretch")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"do_pad": True}))
    with pytest.raises(ConfigError, match="AKI stretches images to a square"):
        rave_mlx.load(folder)


def test_tiles_are_resampled_one_by_one(lmm):
    """Two tiles in one call give what each gives alone."""
    config = lmm.config.connector
    resampler = Resampler(config)
    rng = np.random.default_rng(0)
    named = [(n, mx.array(rng.normal(0, 0.3, w.shape).astype(np.float32))) for n, w in flat(resampler)]
    resampler.load_weights(named)
    tiles = mx.array(rng.normal(0, 1, (2, 49, config.hidden_size)).astype(np.float32))
    one = cut_patches(picture(), lmm.config.image)
    both = resampler(tiles, replace(one, layout=(18,)))
    assert both.shape == (18, config.output_size)
    for i in range(2):
        assert relative(both[9 * i : 9 * i + 9], resampler(tiles[i : i + 1], one)) <= 1e-6


def flat(module):
    from mlx.utils import tree_flatten

    return tree_flatten(module.parameters())
