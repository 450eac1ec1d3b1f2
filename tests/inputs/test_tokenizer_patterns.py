"""Regular expressions of a tokenizer that explode are refused when it is opened."""

from __future__ import annotations

import json
import time

import pytest

from rave_mlx.checkpoint.directory import BUILT_IN
from rave_mlx.errors import ModelError, PromptError
from rave_mlx.inputs.prompt import tokenizer_patterns
from rave_mlx.inputs.prompt.tokenizer import Tokenizer

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}"
    r"\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
EXPLOSIVE = [
    "(a+)+$", r"(\w+\s?)*$", "(a|a)*b", "(a|aa)+$", "(ab|abab)+c", r"\s*\s*\s*\s*\s*x", "(x+x+)+y", r"(\p{L}+\p{N}*)+!",
    "([^!]*,)*[^!]*;", "(.*a){12}b", "^(([a-z])+.)+[A-Z]([a-z])+$",
]  # fmt: skip


def tokenizer_with(folder, **parts):
    data = json.loads((BUILT_IN / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(data | parts))
    return folder / "tokenizer.json"


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replace(pattern):
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": ""}


@pytest.mark.parametrize("pattern", EXPLOSIVE)
def test_an_expression_that_explodes_is_refused(tmp_path, pattern):
    file = tokenizer_with(tmp_path, pre_tokenizer=split(pattern))
    with pytest.raises(ModelError, match="regular expression .* may take forever"):
        Tokenizer(file)


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": replace("(a+)+$")},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, replace("(a+)+$")]}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, split("(a+)+$")]}},
        {"decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}, replace("(a+)+$")]}},
    ],
    ids=["normalizer", "sequence of normalizers", "sequence of splits", "decoder"],
)
def test_wherever_it_stands(tmp_path, parts):
    with pytest.raises(ModelError, match="may take forever"):
        Tokenizer(tokenizer_with(tmp_path, **parts))


@pytest.mark.parametrize("pattern", [QWEN, TEKKEN, DEEPSEEK, BLOOM, r"\p{N}{1,3}", "(?:ab)+", r"\b\w+\b"])
def test_those_of_published_tokenizers_are_taken(tmp_path, pattern):
    Tokenizer(tokenizer_with(tmp_path, pre_tokenizer=split(pattern)))


def test_well_known_ones_cost_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_patterns, "_ends", None)  # not to be called
    Tokenizer(tokenizer_with(tmp_path, pre_tokenizer=split(QWEN)))
    Tokenizer(BUILT_IN / "tokenizer.json")


def test_an_expression_that_is_none_is_refused(tmp_path):
    with pytest.raises(ModelError):
        Tokenizer(tokenizer_with(tmp_path, pre_tokenizer=split("(")))


def test_a_text_that_the_engine_gives_up_on_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_patterns, "KNOWN", frozenset(["(a+)+$"]))
    tokenizer = Tokenizer(tokenizer_with(tmp_path, pre_tokenizer=split("(a+)+$")))
    begun = time.process_time()
    with pytest.raises(PromptError, match="gives up on this text"):
        tokenizer.encode("a" * 60 + "!")
    assert time.process_time() - begun < 5
