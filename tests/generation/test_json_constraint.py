"""Answers that follow a grammar, token by token, over every kind of vocabulary."""

from __future__ import annotations

import gc
import json
import sys
import weakref

import jsonschema
import numpy as np
import pytest
from support import tiny_model
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Core
from tokenizers.models import BPE, WordLevel

from rave_mlx.checkpoint.directory import BUILT_IN
from rave_mlx.errors import ModelError, UsageError
from rave_mlx.generation.grammar_tokens import GrammarTokens, grammar_tokens
from rave_mlx.generation.job import Job
from rave_mlx.generation.json_constraint import (
    GrammarConstraint,
    choice_constraint,
    json_constraint,
    json_grammar,
    json_object_constraint,
    regex_constraint,
)
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.inputs.prompt.tokenizer import Tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "total amount": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9999}, {"type": "null"}]},
        "vendor_name": {"type": ["string", "null"], "maxLength": 12},
        "größe": {"enum": ["klein", "groß", None]},
        "items": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 3},
        "paid": {"type": "boolean"},
    },
    "required": ["total amount", "vendor_name", "größe", "items", "paid"],
    "additionalProperties": False,
}
CORPUS = [
    '{"total amount": 12, "vendor_name": "Acme", "größe": "klein", "items": ["a b"], "paid": true}',
    "the total amount of the vendor is true, null or false", '": null, "', '", "items": [',
] * 5  # fmt: skip


def trained(core: Core, *, vocab_size: int = 480, single_bytes: bool = False, **more) -> Core:
    """A vocabulary learned from a few texts; with tokens for single bytes, as SentencePiece writes them."""
    core.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, **more))
    state = json.loads(core.to_str())
    vocab = state["model"]["vocab"]
    vocab |= {f"<0x{i:02X}>": len(vocab) + i for i in range(256 if single_bytes else 0)}
    core = Core.from_str(json.dumps(state))
    core.add_special_tokens([AddedToken("<image>", special=True)])
    return core


def byte_level() -> Core:
    """As Qwen has it."""
    core = Core(BPE())
    core.normalizer = normalizers.NFC()
    split = Regex(r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    return trained(core, special_tokens=["</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def metaspace() -> Core:
    """As LLaVA and Mistral have it in new files: a space before the first word, bytes for rare characters."""
    core = Core(BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return trained(core, vocab_size=70, single_bytes=True, special_tokens=["</s>", "<unk>"])


def legacy() -> Core:
    """As Llama 2 and Phi-3 have it: the space comes from a normalizer."""
    core = Core(BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return trained(core, vocab_size=70, single_bytes=True, special_tokens=["</s>", "<unk>"])


def built_in() -> Core:
    return Core.from_file(str(BUILT_IN / "tokenizer.json"))


@pytest.fixture(params=[built_in, byte_level, metaspace, legacy], ids=lambda make: make.__name__)
def tokenizer(request, tmp_path) -> Tokenizer:
    request.param().save(str(tmp_path / "tokenizer.json"))
    return Tokenizer(tmp_path / "tokenizer.json")


def size(tokenizer: Tokenizer) -> int:
    return tokenizer._core.get_vocab_size()


def write(
    constraint: GrammarConstraint, scores: np.random.Generator, stop: int, *, take_forced: bool
) -> tuple[list[int], int]:
    """An answer of random scores (the same for the same place in it), and how many of its tokens were chosen."""
    answer: list[int] = []
    chosen = 0
    rows = scores.normal(size=(300, len(constraint.mask())))
    while len(answer) < 300:
        forced = constraint.forced() if take_forced else []
        if not forced:
            mask = constraint.mask()
            assert mask.any()
            forced, chosen = [int(np.where(mask, rows[len(answer)], -np.inf).argmax())], chosen + 1
        for token in forced:
            constraint.accept(token)
            answer.append(token)
        if answer[-1] == stop:
            break
    return answer, chosen


def test_random_answers_follow_the_schema(tokenizer):
    tokens = GrammarTokens(tokenizer, size(tokenizer) + 7, [0])
    finished = 0
    for seed in range(12):
        ids, _ = write(
            GrammarConstraint(tokens, json_grammar(SCHEMA)), np.random.default_rng(seed), 0, take_forced=False
        )
        if ids[-1] == 0:
            finished += 1
            text = tokenizer.decode(ids)
            jsonschema.validate(json.loads(text), SCHEMA)
            assert text == json.dumps(json.loads(text), ensure_ascii=False) or "\\u" in text or "e" in text
            assert b"".join(tokens.text(ids)).decode() == text
    assert finished >= 10


def test_forced_tokens_change_nothing_and_save_choices(tokenizer):
    tokens = GrammarTokens(tokenizer, size(tokenizer), [0])
    for seed in range(6):
        one, steps = write(
            GrammarConstraint(tokens, json_grammar(SCHEMA)), np.random.default_rng(seed), 0, take_forced=False
        )
        other, fewer = write(
            GrammarConstraint(tokens, json_grammar(SCHEMA)), np.random.default_rng(seed), 0, take_forced=True
        )
        assert one == other
        assert fewer < steps - 10


def test_forced_tokens_are_those_of_the_tokenizer(tokenizer):
    tokens = GrammarTokens(tokenizer, size(tokenizer), [0])
    forced = GrammarConstraint(tokens, json_grammar(SCHEMA)).forced()
    ids, _ = tokenizer.encode('{"total amount": null, "vendor', first=False)
    assert len(forced) >= 2
    while tokenizer.decode(ids[:1]) != tokenizer.decode(forced[:1]):
        ids = ids[1:]  # a space, where every text begins with one
    assert forced == ids[: len(forced)]


@pytest.mark.parametrize("name", ["a ▁b", "e\u0301 no\u0308", "two  spaces", "日本\u2028"])
def test_texts_that_the_tokenizer_changes_are_written_as_they_are(tokenizer, name):
    tokens = GrammarTokens(tokenizer, size(tokenizer), [0])
    schema = {
        "type": "object",
        "properties": {name: {"enum": [name]}},
        "required": [name],
        "additionalProperties": False,
    }
    ids, _ = write(GrammarConstraint(tokens, json_grammar(schema)), np.random.default_rng(0), 0, take_forced=True)
    assert json.loads(tokenizer.decode(ids)) == {name: name}


def test_control_tokens_are_never_written(tmp_path):
    core = metaspace()
    core.add_tokens([AddedToken("[IMG]", special=False)])
    core.save(str(tmp_path / "tokenizer.json"))
    image, mark = core.token_to_id("<image>"), core.token_to_id("[IMG]")
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", control=[mark])
    constraint = GrammarConstraint(GrammarTokens(tokenizer, size(tokenizer), [0]), json_grammar({"type": "string"}))
    constraint.accept(core.token_to_id('"'))
    mask = constraint.mask()
    assert mask.sum() > 200
    assert not mask[image] and not mask[mark]
    plain = Tokenizer(tmp_path / "tokenizer.json")
    constraint = GrammarConstraint(GrammarTokens(plain, size(plain), [0]), json_grammar({"type": "string"}))
    constraint.accept(core.token_to_id('"'))
    assert constraint.mask()[mark]


def test_other_tokens_are_refused_and_the_answer_goes_on(tokenizer):
    constraint = GrammarConstraint(GrammarTokens(tokenizer, size(tokenizer), [0]), json_grammar({"type": "boolean"}))
    for token in (0, -1, size(tokenizer), tokenizer._core.token_to_id("r"), tokenizer._core.token_to_id("u")):
        with pytest.raises(ValueError, match="is not one that the schema allows here"):
            constraint.accept(token)
    constraint.accept(tokenizer._core.token_to_id("t"))
    while forced := constraint.forced():
        constraint.accept(forced[0])
    assert constraint.is_complete
    assert constraint.mask().nonzero()[0].tolist() == [0]
    constraint.accept(0)
    assert constraint.mask().nonzero()[0].tolist() == [0]
    assert constraint.forced() == []


def test_vocabularies_that_are_larger_or_smaller_than_the_logits(tokenizer):
    for rows in (size(tokenizer) + 40, size(tokenizer) - 2):
        tokens = GrammarTokens(tokenizer, rows, [0, 10_000])
        assert tokens.stop == (0,)
        mask = GrammarConstraint(tokens, json_grammar({"type": "string"})).mask()
        assert mask.shape == (rows,)
        assert not mask[size(tokenizer) :].any()
    with pytest.raises(ModelError, match="stop tokens lie outside"):
        GrammarTokens(tokenizer, size(tokenizer), [10_000])


def test_every_stop_token_may_end_an_answer():
    lmm = tiny_model()
    constraint = json_constraint(lmm, {"const": 1})
    constraint.accept(lmm.tokenizer.encode("1")[0][0])
    assert constraint.mask().nonzero()[0].tolist() == sorted(lmm.config.tokens.stop)


def follow(lmm, constraint, text: str) -> bool:
    for token in lmm.tokenizer.encode(text)[0]:
        constraint.accept(token)
    return constraint.is_complete


def test_expressions_choices_and_any_object():
    lmm = tiny_model()
    assert follow(lmm, regex_constraint(lmm, "[0-9]{2}-[a-c]+"), "12-abc")
    assert follow(lmm, regex_constraint(lmm, 'a/b\n\\d[é"]'), "a/b\n1é")
    for text in ('a "b"', "日本\n", "😀"):
        assert follow(lmm, choice_constraint(lmm, ['a "b"', "日本\n", "😀"]), text)
    assert follow(lmm, json_object_constraint(lmm), '{"a": [1, {"b": null}]}')
    for constraint, text in (
        (regex_constraint(lmm, "[0-9]{2}"), "123"),
        (choice_constraint(lmm, ["yes", "no"]), "yeah"),
        (json_object_constraint(lmm), "[1]"),
        (json_object_constraint(lmm), '{"a":  1}'),
    ):
        with pytest.raises(ValueError, match="is not one that"):
            follow(lmm, constraint, text)
    for refused, reason in (
        (lambda: regex_constraint(lmm, "(?=a)b"), "the schema cannot be followed"),
        (
            lambda: json_constraint(lmm, {"type": "array", "uniqueItems": True}),
            'Unimplemented keys: \\["uniqueItems"\\]',
        ),
        (lambda: choice_constraint(lmm, []), "at least one"),
        (lambda: choice_constraint(lmm, ["a", ""]), "not empty"),
    ):
        with pytest.raises(UsageError, match=reason) as caught:
            refused()
        assert "\n" not in str(caught.value)


class Unforced(GrammarConstraint):
    """The same constraint, of whose forced tokens the writer knows nothing."""

    def forced(self):
        return []


def test_a_model_writes_the_same_with_forced_tokens_in_fewer_passes():
    lmm = tiny_model()
    prompt = lmm.prepare([{"role": "user", "content": "total?"}])
    grammar, tokens = json_grammar(SCHEMA), grammar_tokens(lmm)
    jobs = [Job(prompt, max_tokens=200, constraint=kind(tokens, grammar)) for kind in (GrammarConstraint, Unforced)]
    one, other = Scheduler(lmm).run(jobs)
    assert one.ids == other.ids
    assert one.text == other.text
    assert one.steps < other.steps - 50
    np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-4, atol=1e-7)


def test_the_vocabulary_is_made_once_and_goes_with_the_tokenizer(tmp_path):
    lmm = tiny_model()
    assert grammar_tokens(lmm) is grammar_tokens(lmm)
    assert not any("gramma" in str(name).lower() for name in vars(lmm) | dict(lmm))
    gone = weakref.ref(grammar_tokens(lmm))
    del lmm
    gc.collect()
    assert gone() is None


def test_without_llguidance(monkeypatch):
    lmm = tiny_model()
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UsageError, match=r"need llguidance; install it with: pip install 'rave-mlx\[extract\]'"):
        json_object_constraint(lmm)


def test_tokens_without_known_bytes(tmp_path):
    Core(WordLevel({"</s>": 0, "a": 1}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="llguidance cannot tell the bytes"):
        GrammarTokens(Tokenizer(tmp_path / "tokenizer.json"), 2, [0])
