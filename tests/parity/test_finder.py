"""The finder without its places is BERT: transformers' question answering with the same weights, and its tokenizer."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from finders import VOCABULARY, network, random_weights, tiny, write_tokenizer
from support import relative, rounding

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from rave_mlx.inputs.lines.page_words import PageWord  # noqa: E402
from rave_mlx.models.finder.network import FinderInput  # noqa: E402
from rave_mlx.models.finder.word_pieces import WordPieces  # noqa: E402

CONFIG = tiny()
NO_PLACES = ("near", "sizes.weight", "starts.weight")
LAYER = {
    "attention.output.dense": "out", "attention.output.LayerNorm": "attention_norm", "intermediate.dense": "up",
    "output.dense": "down", "output.LayerNorm": "norm",
}  # fmt: skip
TOP = {
    "bert.embeddings.word_embeddings": "words", "bert.embeddings.position_embeddings": "positions",
    "bert.embeddings.token_type_embeddings": "parts", "bert.embeddings.LayerNorm": "norm", "qa_outputs": "span",
}  # fmt: skip


def weights_without_places(seed):
    """Random weights with zeros for all that knows where words stand."""
    drawn = random_weights(CONFIG, seed)
    return {name: mx.zeros_like(array) if name in NO_PLACES else array for name, array in drawn.items()}


def bert(weights):
    """transformers' BERT for extractive question answering, with these weights."""
    shape = transformers.BertConfig(
        vocab_size=CONFIG.vocab_size, hidden_size=CONFIG.hidden_size, num_hidden_layers=CONFIG.num_layers,
        num_attention_heads=CONFIG.num_heads, intermediate_size=CONFIG.intermediate_size,
        max_position_embeddings=CONFIG.max_positions, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.BertForQuestionAnswering(shape).eval()
    state = {}
    for name in model.state_dict():
        stem, _, kind = name.rpartition(".")
        if stem in TOP:
            own = np.array(weights[f"{TOP[stem]}.{kind}"])
        elif ".attention.self." in stem:
            number, part = stem.split(".")[3], ("query", "key", "value").index(stem.rpartition(".")[2])
            own = np.split(np.array(weights[f"layers.{number}.qkv.{kind}"]), 3)[part]
        elif stem.startswith("bert.encoder.layer."):
            number, own_name = stem.removeprefix("bert.encoder.layer.").split(".", 1)
            own = np.array(weights[f"layers.{number}.{LAYER[own_name]}.{kind}"])
        else:
            continue
        state[name] = torch.from_numpy(own.copy())
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (set(missing) <= {"bert.embeddings.position_ids"}, unexpected) == (True, [])
    return model


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("question", "length"), [(4, 24), (0, 3), (20, 128)])
def test_scores_are_those_of_bert(seed, question, length):
    weights, rng = weights_without_places(seed), np.random.default_rng(seed)
    ids = rng.integers(0, CONFIG.vocab_size, length).astype(np.int32)
    start = question + 2
    marks = np.where(np.arange(length) >= start, rng.integers(1, 4, length), 0).astype(np.int32)
    places = rng.uniform(0, 50, (length, 3)).astype(np.float32)
    found = network(CONFIG, weights)(FinderInput(ids, places, marks, marks, start))
    model = bert(weights)
    parts = torch.from_numpy((np.arange(length) >= start).astype(np.int64))[None]
    with torch.no_grad():
        given = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None], "token_type_ids": parts}
        expected = model(**given)
        state = model.bert(**given).last_hidden_state[0, 0].numpy()
    layer = 3 * CONFIG.hidden_size + 2 * length + CONFIG.intermediate_size
    most = rounding(CONFIG.num_layers * layer, CONFIG.hidden_size)
    assert most < 2e-5
    assert relative(found.first, expected.start_logits[0].numpy()) < most
    assert relative(found.last, expected.end_logits[0].numpy()) < most
    kinds = np.array(weights["kind.weight"], np.float64) @ state + np.array(weights["kind.bias"], np.float64)
    assert relative(found.kinds, kinds) < most


def test_places_are_what_makes_the_difference():
    weights, rng = random_weights(CONFIG), np.random.default_rng(0)
    ids, marks = rng.integers(0, CONFIG.vocab_size, 24).astype(np.int32), np.where(np.arange(24) < 6, 0, 1)
    given = FinderInput(ids, rng.uniform(0, 50, (24, 3)).astype(np.float32), marks, marks, 6)
    scores = [network(CONFIG, each)(given).first for each in (weights, weights_without_places(0))]
    assert relative(*scores) > 0.1


@pytest.mark.parametrize(
    ("question", "page"),
    [("What is the total?", "Invoice 2024 Total: 50.70€"), ("Wann?", "Straße 5 ÉLAN 12/4/2021 don't Ж"), ("", "in")],
)
def test_question_and_page_are_the_tokens_of_bert(question, page, tmp_path):
    """A row of a page is what BERT makes of a question and a text."""
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    theirs = transformers.BertTokenizerFast.from_pretrained(tmp_path, do_lower_case=True)
    pieces = WordPieces(write_tokenizer(tmp_path / "tokenizer.json"))
    words = [PageWord(text, 30.0 * i, 0, 30.0 * i + 28, 10) for i, text in enumerate(page.split())]
    given = pieces.join(pieces.question(question), pieces.page(words))
    expected = theirs(question, page)
    assert given.ids.tolist() == expected["input_ids"]
    parts = (np.arange(len(given.ids)) >= given.page_start).astype(int)
    assert parts.tolist() == expected["token_type_ids"]
