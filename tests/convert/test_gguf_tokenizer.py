"""The tokenizers of GGUF files: SentencePiece against the library of that name, byte-level BPE by its splits."""

from __future__ import annotations

import io

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases
from gguf_files import metadata, save, tensors, vocabulary, write

import rave_mlx
from rave_mlx.convert.gguf.tokenizer import build_tokenizer
from rave_mlx.convert.gguf.vocabulary import Vocabulary
from rave_mlx.errors import ModelError, RaveError

spm = pytest.importorskip("sentencepiece")

CASES = cases()
TEXTS = (
    "Hello, world!", "  two  spaces   three", "tabs\tand\nnew\n\n\nlines \n ", "Order 4711: 12,345.67 EUR (19% VAT)",
    "naïve façade Größe Ærøskøbing", "日本語のテキスト、句読点。", "Привет, мир! Ελληνικά עברית العربية हिन्दी",
    "🙂👩‍👩‍👧‍👦🇩🇪", "x=f(a,b);//c++ `code`", "the the  the", "\u00a0nbsp\u2003em", " leading and trailing ", "a" * 60,
    "<0x41> is text", "\u2581 stands for a space",
)  # fmt: skip
CORPUS = (
    " ".join(TEXTS[:-3])
    + """
The tokenizer of a model cuts a text into pieces, and the pieces that come often are long. The quick brown fox jumps
over the lazy dog. Der schnelle braune Fuchs springt über den faulen Hund. Le renard brun saute par-dessus le chien.
Быстрая коричневая лиса прыгает через ленивую собаку. 速い茶色の狐はのろまな犬を飛び越える。 Order, total, price, date.
"""
)


def train(**options):
    """A small SentencePiece BPE with byte fallback, as Llama's: spaces are kept, one is put before the text."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines()), model_writer=model, vocab_size=560, model_type="bpe",
        byte_fallback=True, remove_extra_whitespaces=False, normalization_rule_name="identity",
        split_digits=True, allow_whitespace_only_pieces=True, control_symbols=["<|user|>", "<|end|>"],
        minloglevel=2, hard_vocab_limit=False, **options,
    )  # fmt: skip
    return spm.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.fixture(scope="module")
def trained():
    return train()


def pieces(trained, **changes):
    """Settings of a GGUF file, as `SentencePieceVocab` of llama.cpp's converter (gguf-py/gguf/vocab.py) takes them."""
    count = trained.vocab_size()

    def kind(index):
        tests = (trained.is_unknown, 2), (trained.is_control, 3), (trained.is_unused, 5), (trained.is_byte, 6)
        return next((number for test, number in tests if test(index)), 1)

    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [trained.id_to_piece(i) for i in range(count)],
        "tokenizer.ggml.scores": [trained.get_score(i) for i in range(count)],
        "tokenizer.ggml.token_type": [kind(i) for i in range(count)],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **changes,
    }


def build(tmp_path, settings):
    """The tokenizer, read back from its file; control tokens in a text are text."""
    tokenizer = build_tokenizer(tmp_path / "model.gguf", settings)
    tokenizer.encode_special_tokens = True
    return tokenizer


def test_sentencepiece(trained, tmp_path):
    tokenizer = build(tmp_path, pieces(trained))
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == trained.encode(text), text
        assert tokenizer.decode(ids) == text.replace("\u2581", " ")
    assert tokenizer.encode("a").ids == [1, *trained.encode("a")]
    octets = tokenizer.encode("\U0001d11e", add_special_tokens=False).ids  # not in the corpus
    assert octets == trained.encode("\U0001d11e")
    assert sum(map(trained.is_byte, octets)) == 4


def test_without_a_space_before(tmp_path):
    trained = train(add_dummy_prefix=False)
    tokenizer = build(tmp_path, pieces(trained, **{"tokenizer.ggml.add_space_prefix": False}))
    for text in TEXTS[:-1]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == trained.encode(text), text
        assert tokenizer.decode(ids) == text


def test_transformers_reads_the_same(trained, tmp_path):
    transformers = pytest.importorskip("transformers")
    case = CASES["llama"]
    arrays = {name: mx.array(np.zeros((2, 32), np.float32)) for name in ("token_embd.weight",)}
    found = {name: value for name, value in metadata(case).items() if not name.startswith("tokenizer")}
    found |= {name: typed(value) for name, value in pieces(trained).items()}
    save(tmp_path / "model.gguf", arrays, found)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    ours = build(tmp_path, pieces(trained))
    for text in TEXTS:
        if text[:1] not in (" ", "\u2581"):  # theirs puts no space before a space; SentencePiece and llama.cpp do
            assert ours.encode(text).ids == theirs.encode(text), text


def typed(value):
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, list):
        return value if isinstance(value[0], str) else mx.array(value, mx.float32 if 0.0 in value else mx.int32)
    return mx.array(value, mx.uint32)


@pytest.mark.parametrize("name", ["Phi-3 Mini 4K Instruct", "microsoft_phi3", "Other"])
def test_phi_swallows_what_follows_a_control_token(trained, tmp_path, name):
    """`LLAMA_TOKEN_ATTR_RSTRIP` of llama.cpp (src/llama-vocab.cpp) goes by the model's name, "phi-3" or "phi3"."""
    tokenizer = build_tokenizer(tmp_path / "model.gguf", pieces(trained, **{"general.name": name}))
    ids = tokenizer.encode("<|user|>\n Say hi", add_special_tokens=False).ids
    rest = "\n Say hi" if name == "Other" else "Say hi"
    assert ids == [trained.piece_to_id("<|user|>"), *trained.encode(rest)]
    assert tokenizer.encode("<s>\n Say hi", add_special_tokens=False).ids == [1, *trained.encode("\n Say hi")]


def test_mistral_puts_a_space_before_the_prompt_only(trained, tmp_path):
    """A vocabulary with [INST] as a control token is that of Mistral's tokenizers from version 3 on."""
    settings = pieces(trained)
    settings["tokenizer.ggml.tokens"][trained.piece_to_id("<|user|>")] = "[INST]"
    tokenizer = build_tokenizer(tmp_path / "model.gguf", settings)
    assert tokenizer.encode("7", add_special_tokens=False).ids == trained.encode("7")
    ids = tokenizer.encode("[INST] 7", add_special_tokens=False).ids
    assert ids == [trained.piece_to_id("<|user|>"), *trained.encode("7")]


def test_a_sentencepiece_model_answers(trained, tmp_path):
    """The whole way: a file with such a vocabulary, its template's control tokens, and the start token."""
    case = CASES["llama"]
    count = trained.vocab_size()
    weights = tensors(case)
    for name in ("token_embd.weight", "output.weight"):
        weights[name] = mx.random.normal((count, 64), key=mx.random.key(1))
    template = "{{ bos_token }}{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"
    found = {name: value for name, value in metadata(case).items() if not name.startswith("tokenizer")}
    found |= {name: typed(value) for name, value in pieces(trained).items()} | {"tokenizer.chat_template": template}
    lmm = rave_mlx.load(save(tmp_path / "model.gguf", weights, found))
    prompt = lmm.prepare([{"role": "user", "content": "12 <|end|>"}])
    user, end = (trained.piece_to_id(name) for name in ("<|user|>", "<|end|>"))
    assert prompt.ids[0].tolist() == [1, user, *trained.encode("12 <|end|>"), end]
    # <|end|> is a control token whose text says that it ends an answer; the file names </s> only.
    assert lmm.config.tokens.stop == (2, end)
    assert np.isfinite(np.array(lmm.logits(prompt))).all()


REFUSED = {
    "unigram": ({"tokenizer.ggml.model": "t5"}, "tokenizer 't5' is not supported"),
    "fewer scores": ({"tokenizer.ggml.scores": [0.0]}, "tokens and scores differ in length"),
    "fewer kinds": ({"tokenizer.ggml.token_type": [1]}, "tokens and token_type differ in length"),
    "a normalizer": ({"tokenizer.ggml.precompiled_charsmap": [1]}, "tokenizer.ggml.precompiled_charsmap"),
    "folded spaces": ({"tokenizer.ggml.remove_extra_whitespaces": True}, "remove_extra_whitespaces"),
    "an unknown setting": ({"tokenizer.ggml.lowercase": True}, "not supported: tokenizer.ggml.lowercase"),
    "no token": ({"tokenizer.ggml.bos_token_id": 10**6}, "bos_token_id is 1000000, which is no token"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(trained, what, tmp_path):
    changes, message = REFUSED[what]
    with pytest.raises(ModelError, match=message):
        build_tokenizer(tmp_path / "model.gguf", pieces(trained, **changes))


def test_harmless_settings(trained, tmp_path):
    more = {"remove_extra_whitespaces": False, "fim_pre_token_id": 3, "add_eos_token": False, "eog_token_ids": [2]}
    build_tokenizer(tmp_path / "model.gguf", pieces(trained, **{f"tokenizer.ggml.{k}": v for k, v in more.items()}))


WORDS = {
    # The regular expressions of llama.cpp (src/llama-vocab.cpp) by hand.
    "llama-bpe": ("I'LL pay 1234567 €!\n\n ok", ["I", "'LL", " pay", " ", "123", "456", "7", " €!\n\n", " ok"]),
    "qwen2": ("I'LL pay 123 €!\n\n ok", ["I", "'LL", " pay", " ", "1", "2", "3", " €!\n\n", " ok"]),
    "smollm": ("I'll pay 12 €", ["I", "'ll", " pay", " ", "1", "2", " €"]),
    "default": ("I'll pay 1234 €!", ["I", "'ll", " pay", " 1234", " €!"]),
    "gpt-2": ("I'LL pay", ["I", "'", "LL", " pay"]),
    "phi-2": ("x  12a", ["x", " ", " 12", "a"]),
    "dbrx": ("12345", ["123", "45"]),
    "smaug-bpe": ("12345", ["123", "45"]),
    "tekken": ("camelCase ABCd 12/3", ["camel", "Case", " ABCd", " ", "1", "2", "/", "3"]),
    "gpt-4o": ("camelCase don't 1234", ["camel", "Case", " don't", " ", "123", "4"]),
}  # fmt: skip


@pytest.mark.parametrize("pre", WORDS)
def test_words(pre, tmp_path):
    text, words = WORDS[pre]
    settings = {"tokenizer.ggml.pre": pre, **{k: v for k, v in vocabulary().items() if not k.endswith("pre")}}
    settings = {k: v.tolist() if isinstance(v, mx.array) else v for k, v in settings.items()}
    found = build_tokenizer(tmp_path / "model.gguf", settings).pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:stop] for _, (start, stop) in found] == words


@pytest.mark.parametrize(("name", "template"), [("tokenizer.chat_template.default", "{{ 1 }}"), (None, None)])
def test_templates(name, template, tmp_path):
    """The default one; a file beside the model where there is none; else a refusal that names the others."""
    changes = {"tokenizer.chat_template": None, "tokenizer.chat_template.rag": "{{ 2 }}"}
    if name:
        path = write(tmp_path / "model.gguf", CASES["llama"], **changes, **{name: template})
        assert rave_mlx.load(path).template.source == template
        return
    path = write(tmp_path / "model.gguf", CASES["llama"], **changes)
    with pytest.raises(RaveError, match=r"no default chat template \(tokenizer.chat_template\), only rag"):
        rave_mlx.load(path)
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert len(rave_mlx.load(path).prepare(CONVERSATIONS["text"])) == len("How are you?")


def test_ends_by_their_text(tmp_path):
    """A file that names an end of turn has said it all; one that does not may have a token whose text says so."""
    settings = {k: v.tolist() if isinstance(v, mx.array) else v for k, v in vocabulary(("<|end|>", "<|no|>")).items()}
    assert Vocabulary.read(tmp_path, settings).ends == [2, 0, 272]
    assert Vocabulary.read(tmp_path, settings | {"tokenizer.ggml.eot_token_id": 5}).ends == [2, 5]
