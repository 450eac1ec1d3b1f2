"""Modality-mutual attention (arXiv 2503.02597): an image sees the rest of its turn, and nothing else changes.

The rule is written down once more here, token by token, and the decoder is held against it: which states change when
a token's embedding does. `START`, the built-in template's <|im_start|>, plays the part of AKI's <|assistant|>.
"""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from support import ask, picture, relative, tiny_config, tiny_model

from rave_mlx.attention import decoder_mask
from rave_mlx.chat.session import Session
from rave_mlx.config import GateConfig, LMMConfig
from rave_mlx.errors import ConfigError
from rave_mlx.generation.decode import step
from rave_mlx.generation.prefill import _chunk_end, prefill
from rave_mlx.inputs.prompt.message import Message, TextPart
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.inputs.prompt.positions import lookahead_spans
from rave_mlx.models.lmm import LMM

START, SYSTEM, USER, PICTURE, WORD, ANSWER = 1, 10, 11, 6, 12, 13
GATE = GateConfig(rank=4, kv_groups=0.5)


def mutual(gate=None, **options) -> LMM:
    """A tiny model with the mutual mask."""
    lmm = tiny_model(gate, **options)
    lmm.config = replace(lmm.config, mask="mutual", tokens=replace(lmm.config.tokens, answer=START))
    return lmm


@pytest.fixture(scope="module")
def lmm():
    return mutual()


CONVERSATIONS = {
    "one image": [ask("What is the total?", picture(40, 24))],
    "no image": [{"role": "user", "content": "How are you?"}],
    "two images": [ask("Compare.", picture(40, 24), picture(24, 32, 1))],
    "two turns": [
        ask("What is this?", picture(40, 24)),
        {"role": "assistant", "content": "A form."},
        ask("And this?", picture(24, 40, 1)),
        {"role": "assistant", "content": "A page."},
        ask("Why?"),
    ],
}


def sees(ids, image, i, j) -> bool:
    """Token i sees token j: the rule in words."""
    if j <= i:
        return True
    if image[i] < 0 or image[j] == image[i]:
        return False
    ends = [a for a in range(i, len(ids)) if ids[a] == START and START not in ids[i:a]]
    return bool(ends) and j <= ends[0]


def brute(ids, image) -> np.ndarray:
    return np.array([[sees(list(ids), image, i, j) for j in range(len(ids))] for i in range(len(ids))])


def visible(ids, image) -> np.ndarray:
    """What the decoder is told."""
    lookahead = lookahead_spans(np.array(ids, np.int32), np.array(image, np.int32), START)
    mask = decoder_mask(len(ids), len(ids), lookahead=mx.array(lookahead[None]))
    return np.array(mask)[0, 0]


# The rule

TEN = [SYSTEM, USER, PICTURE, PICTURE, PICTURE, WORD, WORD, START, ANSWER, ANSWER]
TEN_IMAGE = [-1, -1, 0, 0, 0, -1, -1, -1, -1, -1]
TEN_MASK = [
    [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    [1, 1, 1, 0, 0, 1, 1, 1, 0, 0],
    [1, 1, 1, 1, 0, 1, 1, 1, 0, 0],
    [1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
    [1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
    [1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    [1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 0],
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
]
"""The released code's mask for an image of three tokens at 2 and <|assistant|> at 7."""


def test_the_mask_of_one_image_and_one_turn():
    assert visible(TEN, TEN_IMAGE).astype(int).tolist() == TEN_MASK
    assert np.sum(TEN_MASK) == 64


def test_without_an_image_or_without_an_answer_the_mask_is_causal():
    """As in AKI's pre-training on captions."""
    causal = np.tril(np.ones((10, 10), int)).tolist()
    assert visible(TEN, [-1] * 10).astype(int).tolist() == causal
    assert visible([WORD if i == START else i for i in TEN], TEN_IMAGE).astype(int).tolist() == causal


@pytest.mark.parametrize("seed", range(20))
def test_the_mask_of_any_conversation(seed):
    """Several turns, each with up to three images between words, some without an answer."""
    rng = np.random.default_rng(seed)
    ids, image, count = [], [], 0
    for _ in range(rng.integers(1, 4)):
        for _ in range(rng.integers(0, 4)):
            words, tokens = rng.integers(0, 3), rng.integers(1, 4)
            ids += [WORD] * words + [PICTURE] * tokens
            image += [-1] * words + [count] * tokens
            count += 1
        tail = [WORD] * rng.integers(1, 3) + [START] * rng.integers(0, 2) + [ANSWER] * rng.integers(0, 3)
        ids += tail
        image += [-1] * len(tail)
    assert (visible(ids, image) == brute(ids, image)).all()


def test_an_answer_token_is_needed():
    with pytest.raises(ConfigError, match="mutual mask needs tokens.answer"):
        replace(tiny_config(), mask="mutual")
    config = mutual().config
    assert LMMConfig.from_dict(config.to_dict()) == config


# The decoder keeps to it


def influence(lmm, ids, image, *, path=None, gated=False) -> np.ndarray:
    """(L, L): how far the state of row i moves with the embedding of token j; one layer, so only what i sees can.

    One pass for each j, all of the same shapes: what a row does not see leaves it the same to the bit, whichever
    kernels compute it. In one batch they could sum the same row in another order at another place.
    """
    length = len(ids)
    lookahead = mx.array(lookahead_spans(np.array(ids, np.int32), np.array(image, np.int32), START)[None])
    visual = np.array(image) >= 0
    span = (int(np.flatnonzero(visual)[0]), int(np.flatnonzero(visual)[-1]) + 1)
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (length, lmm.config.text.hidden_size)).astype(np.float32)

    def states(x):
        hidden = lmm.decoder.hidden(
            mx.array(x[None]),
            mx.broadcast_to(mx.arange(length), (1, 3, length)),
            mx.array(visual[None]),
            gate_span=span if gated else None,
            lookahead=lookahead,
            path=path,
        )
        return np.array(hidden)[0]

    before, columns = states(x), []
    for j in range(length):
        moved = x.copy()
        moved[j] += rng.normal(0, 1, x.shape[-1])
        columns.append(np.abs(states(moved) - before).max(axis=-1))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("path", ["chunked", "stock", "reference", "train"])
def test_a_state_changes_exactly_with_the_tokens_it_sees(path):
    change = influence(mutual(num_layers=1), TEN, TEN_IMAGE, path=path)
    assert ((change > 1e-4) == np.array(TEN_MASK, bool)).all()
    assert (change[~np.array(TEN_MASK, bool)] == 0).all()


@pytest.mark.parametrize(
    ("path", "squash"), [("chunked", "tanh"), ("fold", "identity"), ("reference", "boost"), ("train", "suppress")]
)
def test_a_gate_opens_and_closes_nothing(path, squash):
    lmm = mutual(replace(GATE, squash=squash), num_layers=1)
    change = influence(lmm, TEN, TEN_IMAGE, path=path, gated=True)
    assert ((change > 1e-4) == np.array(TEN_MASK, bool)).all()
    assert (change[~np.array(TEN_MASK, bool)] == 0).all()
    assert relative(change, influence(lmm, TEN, TEN_IMAGE, path=path)) > 1e-3


@pytest.mark.parametrize(("squash", "paths"), [("tanh", ("chunked", "train")), ("identity", ("fold", "chunked"))])
def test_gated_paths_agree_under_the_mask(squash, paths):
    lmm = mutual(replace(GATE, squash=squash))
    prompts = [lmm.prepare(CONVERSATIONS[name]) for name in ("two turns", "one image")]
    expected = lmm.logits(prompts, path="reference")
    for path in paths:
        assert relative(lmm.logits(prompts, path=path)[0], expected[0]) <= 1e-5
        assert relative(lmm.logits(prompts, path=path)[1, -60:], expected[1, -60:]) <= 1e-5
    assert relative(lmm.logits(prompts, gate=False), expected) > 1e-3


def test_gradients_see_the_mask():
    """Of the linear-memory path against those of the explicit scores."""
    lmm = mutual(GATE)
    prompt = lmm.prepare(CONVERSATIONS["two images"])
    x, _ = lmm.embed(prompt, 0, len(prompt))
    tokens, columns = prompt.token_map, np.flatnonzero(prompt.token_map.visual)
    weight = mx.array(np.random.default_rng(0).normal(0, 1, (1, *x.shape[1:])).astype(np.float32))

    def loss(x, path):
        hidden = lmm.decoder.hidden(
            x, mx.array(tokens.positions[None]), mx.array(tokens.visual[None]), path=path,
            gate_span=(int(columns[0]), int(columns[-1]) + 1), lookahead=mx.array(tokens.lookahead[None]),
        )  # fmt: skip
        return (hidden * weight).sum()

    found, expected = (mx.grad(lambda x, path=path: loss(x, path))(x) for path in ("train", "reference"))
    assert relative(found, expected) <= 1e-5


def test_a_question_changes_what_is_kept_of_the_image_after_the_first_layer(lmm):
    """Layer 0 sees embeddings only; with a causal mask no layer's image keys know the question."""

    def keys(model, question):
        prompt = model.prepare([ask(question, picture(40, 24))])
        cache = model.make_cache()
        prefill(model, prompt, cache)
        image = np.flatnonzero(prompt.token_map.visual)
        return [np.array(layer.arrays[0])[0, :, image] for layer in cache.layers]

    def changed(model):
        return [relative(a, b) > 1e-3 for a, b in zip(keys(model, "Where?"), keys(model, "Whose?"), strict=True)]

    assert changed(lmm) == [False, True, True]
    assert changed(tiny_model()) == [False, False, False]


# Batches, chunks, answers


@pytest.mark.parametrize("gate", [None, GATE], ids=["plain", "gated"])
def test_a_padded_batch_equals_single_prompts(gate):
    lmm = mutual(gate)
    prompts = [lmm.prepare(conversation) for conversation in CONVERSATIONS.values()]
    together = lmm.logits(prompts)
    for row, prompt in enumerate(prompts):
        assert relative(together[row, -len(prompt) :], lmm.logits(prompt)[0]) <= 1e-5


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("chunk", [1, 7, 64, 4096])
def test_reading_in_chunks_equals_reading_at_once(lmm, name, chunk):
    prompt = lmm.prepare(CONVERSATIONS[name])
    assert relative(prefill(lmm, prompt, lmm.make_cache(), chunk=chunk), lmm.logits(prompt)[:, -1]) <= 1e-5


def test_no_chunk_ends_before_what_its_tokens_see(lmm):
    prompt = lmm.prepare(CONVERSATIONS["two turns"])
    lookahead = prompt.token_map.lookahead
    for chunk in range(1, 40):
        start, stops = 0, []
        while start < len(prompt):
            stop = _chunk_end(prompt, start, chunk)
            assert stop > start
            assert (lookahead[1, start:stop] <= stop).all()
            stops.append(stop)
            start = stop
        assert stops[-1] == len(prompt)
    assert len(stops) > 2, "what follows a lookahead span is a chunk of its own again"


def test_writing_an_answer_equals_reading_it(lmm):
    """No answer token is visible to an image, so teacher forcing and decoding agree."""
    answer = np.random.default_rng(0).integers(20, 200, 9)
    prompt = lmm.prepare(CONVERSATIONS["one image"])
    cache = lmm.make_cache()
    written = [prefill(lmm, prompt, cache)]
    for offset, token in enumerate(answer.tolist()):
        written.append(step(lmm, cache, mx.array([token]), prompt.token_map.next_position + offset))
    length = len(answer)
    tokens = prompt.token_map
    whole = replace(
        prompt,
        ids=np.concatenate([prompt.ids, answer[None].astype(np.int32)], axis=1),
        token_map=replace(
            tokens,
            role=np.pad(tokens.role, (0, length)),
            image=np.pad(tokens.image, (0, length), constant_values=-1),
            message=np.pad(tokens.message, (0, length), constant_values=-1),
            positions=np.concatenate([tokens.positions, np.tile(tokens.next_position + np.arange(length), (3, 1))], 1),
            lookahead=np.pad(tokens.lookahead, [(0, 0), (0, length)]),
        ),
    )
    assert relative(mx.stack(written, axis=1), lmm.logits(whole)[:, len(prompt) - 1 :]) <= 1e-5


# Conversations


@pytest.fixture
def encoded(monkeypatch):
    """Which images the vision tower reads."""
    digests = []
    real = LMM.features
    monkeypatch.setattr(LMM, "features", lambda self, image: digests.append(image.digest) or real(self, image))
    return digests


def say(session, text, *images):
    return "".join(piece.text for piece in session.send(text, images))


def expected_next(session, question):
    """Scores after a question: from the session's cache, and from the whole conversation at once."""
    lmm = session.lmm
    prompt = lmm.prompt([*session.messages, Message("user", (TextPart(question),))])
    cache, reused = session._reuse(prompt)
    return reused, prefill(lmm, prompt, cache), lmm.logits(prompt)[:, -1]


def test_a_second_question_reads_only_itself(lmm, encoded):
    """A turn is seen ahead by its own images only, so the first image's keys and values stay as they are."""
    session = Session(lmm, max_tokens=5)
    say(session, "What is the total?", picture(40, 24))
    say(session, "And the date?")
    assert len(encoded) == 1
    assert session.stats.images_encoded == 0
    assert session.stats.reused_tokens > session.stats.visual_tokens + 20
    reused, continued, whole = expected_next(session, "Why?")
    assert reused > session.stats.reused_tokens
    assert relative(continued, whole) <= 1e-5


def test_a_changed_question_reads_its_image_again(lmm, encoded):
    """The image has seen the old question. The vision tower has not: its features are kept."""
    session = Session(lmm, max_tokens=5)
    image = picture(40, 24)
    for question in ("What is the total?", "What is the date?", "What is the date?"):
        answer = [piece.token for piece in session.answer([ask(question, image)])]
        assert answer == [piece.token for piece in Session(lmm, max_tokens=5).answer([ask(question, image)])]
    first = int(np.flatnonzero(lmm.prepare([ask("?", image)]).token_map.visual)[0])
    session.reset()
    list(session.answer([ask("Who?", image)]))
    assert session.stats.reused_tokens == first
    assert session.stats.images_encoded == 0
    list(session.answer([ask("Who?", image)]))
    assert session.stats.reused_tokens == session.stats.prompt_tokens - 1


def test_a_later_question_may_change_without_reading_the_first_image_again(lmm):
    session = Session(lmm, max_tokens=5)
    opening = [ask("What?", picture(40, 24)), {"role": "assistant", "content": "A form."}]
    list(session.answer([*opening, ask("Which one?", picture(24, 24, 2))]))
    changed = [*opening, ask("Which two?", picture(24, 24, 2))]
    list(session.answer(changed))
    prompt = lmm.prepare(changed)
    assert session.stats.reused_tokens == int(np.flatnonzero(prompt.token_map.image == 1)[0])
    reused, continued, whole = expected_next(session, "Why?")
    assert relative(continued, whole) <= 1e-5


def test_a_prompt_without_an_answer_shares_nothing_that_will_see_it(lmm):
    """A conversation that ends with the image's turn, and the same with room for the answer."""
    messages = [ask("What?", picture(40, 24))]
    asked = lmm.prepare(messages)
    unasked = lmm.prompt(read_messages(messages, lmm.config.image), add_generation_prompt=False)
    first = int(np.flatnonzero(asked.token_map.visual)[0])
    assert len(unasked) < len(asked)
    assert unasked.same_until(asked) == asked.same_until(unasked) == first
    assert unasked.same_until(unasked) == len(unasked)
