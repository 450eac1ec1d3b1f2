"""Special tokens, ends of answers and chat templates of a checkpoint's files."""

from __future__ import annotations

import json

import pytest
from families import cases, write_checkpoint
from support import ask, picture

import rave_mlx
from rave_mlx.checkpoint.directory import BUILT_IN, read_config
from rave_mlx.config import AddedTokenConfig, TokenConfig
from rave_mlx.convert.named_templates import read_template
from rave_mlx.convert.tokenizer_settings import read_tokenizer_settings
from rave_mlx.errors import ConfigError, ModelError, PromptError

FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
HI = [{"role": "user", "content": "hi"}]


def put(folder, name, **keys):
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    data = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(data | keys))


@pytest.fixture
def folder(tmp_path):
    """A tiny text checkpoint."""
    return write_checkpoint(cases()["qwen2"], tmp_path / "qwen2")


def ends(folder):
    return rave_mlx.load(folder).config.tokens.stop


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [2, 0]}, {"eos_token_id": 1}, (2, 0)),
        ({"eos_token_id": None}, {"eos_token_id": 1}, (1,)),
        ({"eos_token_id": []}, {"eos_token_id": [1, 2]}, (1, 2)),
        ({}, {"eos_token_id": None}, (3,)),
        ({"eos_token_id": None}, {"eos_token_id": None}, (3,)),
        ({"eos_token_id": [2, None]}, {"eos_token_id": 1}, (2,)),
    ],
)
def test_what_ends_an_answer(folder, generation, config, expected):
    put(folder, "config.json", **config)
    put(folder, "generation_config.json", **generation)
    token = json.loads((folder / "tokenizer.json").read_text())["added_tokens"][3]["content"]
    put(folder, "tokenizer_config.json", **FAST, eos_token=token)
    assert ends(folder) == expected


def test_an_answer_needs_an_end(folder):
    put(folder, "config.json", eos_token_id=None)
    put(folder, "generation_config.json", eos_token_id=None)
    put(folder, "tokenizer_config.json", **FAST, eos_token=None)
    with pytest.raises(ConfigError, match="eos_token_id is given nowhere"):
        rave_mlx.load(folder)


@pytest.mark.parametrize("wrong", ["2", True, [2, "3"], {"a": 1}])
def test_an_end_that_is_no_number_is_named(folder, wrong):
    put(folder, "generation_config.json", eos_token_id=wrong)
    with pytest.raises(ConfigError, match="generation_config.json.*eos_token_id"):
        rave_mlx.load(folder)


def test_an_end_outside_the_vocabulary_is_a_warning(folder, capsys):
    put(folder, "config.json", eos_token_id=[9999, 2])
    assert ends(folder) == (9999, 2)
    assert "9999 is outside the vocabulary of 272" in capsys.readouterr().err


def test_an_image_token_outside_the_vocabulary_is_refused(tmp_path):
    folder = write_checkpoint(cases()["qwen2_5_vl"], tmp_path / "vl")
    put(folder, "config.json", image_token_id=9999)
    with pytest.raises(ConfigError, match="image token 9999 is outside the vocabulary"):
        rave_mlx.load(folder)


def test_a_token_without_a_row_is_refused_in_a_prompt_and_in_training(folder):
    data = json.loads((folder / "tokenizer.json").read_text())
    flags = {"special": False, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    data["added_tokens"].append({"id": 272, "content": "<think>", **flags})
    (folder / "tokenizer.json").write_text(json.dumps(data))
    lmm = rave_mlx.load(folder)
    assert lmm.prepare(HI).ids.max() < 272
    with pytest.raises(PromptError, match=r"message 2 has '<think>', which is token 272 .* ids 0 to 271"):
        lmm.prepare([*HI, {"role": "user", "content": "a <think> b"}])
    with pytest.raises(PromptError, match="'<think>'"):
        rave_mlx.Session(lmm).send("<think>").__next__()
    (folder / "chat_template.jinja").write_text("<think>{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(PromptError, match="the chat template has '<think>'"):
        rave_mlx.load(folder).prepare(HI)


def test_rows_without_a_token_do_no_harm(tmp_path):
    folder = write_checkpoint(cases()["qwen2"], tmp_path / "qwen2")
    data = json.loads((folder / "tokenizer.json").read_text())
    last = max(data["model"]["vocab"], key=data["model"]["vocab"].get)
    del data["model"]["vocab"][last]
    data["model"]["merges"] = [m for m in data["model"].get("merges", []) if "".join(m) != last]
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != last]
    (folder / "tokenizer.json").write_text(json.dumps(data))
    assert rave_mlx.load(folder).prepare(HI).ids.max() < 272


def test_tokens_of_the_settings_are_added_and_kept(folder, tmp_path):
    put(folder, "tokenizer_config.json", **FAST, eos_token="</s>", image_token="<|im_end|>",
        extra_special_tokens=[{"content": "<new>", "rstrip": True}])  # fmt: skip
    settings = read_tokenizer_settings(folder, {"model_type": "qwen3"})
    assert settings.named == {"eos_token": "</s>", "image_token": "<|im_end|>"}
    assert settings.added == (AddedTokenConfig("</s>"), AddedTokenConfig("<new>", rstrip=True))
    assert (settings.id("eos_token"), settings.id("image_token"), settings.id("bos_token")) == (272, 2, None)
    rave_mlx.convert.convert(folder, tmp_path / "rave")
    stored = read_config(tmp_path / "rave").tokens
    assert stored.added[:2] == settings.added
    assert stored.named["eos_token"] == "</s>"


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"eos_token": 3}, "is no token"),
        ({"eos_token": {"lstrip": True}}, "is no token"),
        ({"eos_token": {"content": "<e>", "flag": 1}}, "unknown key flag"),
        ({"added_tokens_decoder": [1]}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"a": {"content": "<e>"}}}, "added_tokens_decoder"),
        ({"extra_special_tokens": "<e>"}, "extra_special_tokens"),
        ({"chat_template": 3}, "chat_template"),
    ],
)
def test_settings_that_are_none_are_named(folder, keys, error):
    (folder / "chat_template.jinja").unlink()
    put(folder, "tokenizer_config.json", **{"chat_template": "{{ messages[0].content }}", **keys})
    with pytest.raises(ConfigError, match=error):
        rave_mlx.load(folder)


def test_templates_without_a_default_are_named(tmp_path):
    named = [{"name": "tool_use", "template": "a"}, {"name": "rag", "template": "b"}]
    put(tmp_path, "tokenizer_config.json", chat_template=named)
    with pytest.raises(ModelError, match="called rag, tool_use, and none called default"):
        read_template(tmp_path, images=False)
    put(tmp_path, "tokenizer_config.json", chat_template=[*named, {"name": "default", "template": "c"}])
    assert read_template(tmp_path, images=False) == "c"


def test_a_template_that_is_no_text_is_named(tmp_path):
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe{")
    with pytest.raises(ConfigError, match="cannot be read as UTF-8"):
        read_template(tmp_path, images=False)


def test_directories_of_before_open_unchanged():
    lmm = rave_mlx.load()
    assert (
        TokenConfig.from_dict({"stop": [2, 0], "image": 6, "bos": None, "pad": 0, "answer": None})
        == read_config(BUILT_IN).tokens
    )
    prompt = lmm.prepare([ask("Total?", picture(32, 32))])
    assert prompt.ids[0, :3].tolist() == [1, 9, 20]
    assert (prompt.token_map.image >= 0).sum() == prompt.images[0].tokens
