"""No token sees a later one under the exact training call, for every model family; peers' trainers leak there."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, aki, cases, write_checkpoint
from families.aki import write_released
from support import ask, picture, relative, tiny_model

import rave_mlx
from rave_mlx.checkpoint.adapters import with_gates
from rave_mlx.config import GateConfig
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.train.batch import collate
from rave_mlx.train.example import make_example
from rave_mlx.train.features import FeatureCache
from rave_mlx.train.forward import hidden_states

CASES = cases() | {"aki": aki.CASE}


@pytest.fixture(scope="module", params=CASES)
def model(request, tmp_path_factory):
    """The case, and its model with random, active gates."""
    case = CASES[request.param]
    write = write_released if case is aki.CASE else partial(write_checkpoint, case)
    lmm = rave_mlx.load(write(tmp_path_factory.mktemp(case.name) / "hf"))
    if lmm.config.gate is None:
        lmm = with_gates(lmm, GateConfig(rank=2), Path(case.name))
    rng = np.random.default_rng(0)
    gates = {n: x for n, x in lmm.named_weights().items() if ".attention.gate." in n}
    lmm.load_weights(
        [(n, mx.array(rng.normal(0, 0.5, x.shape).astype(np.float32))) for n, x in gates.items()], strict=False
    )
    return case, lmm


def examples_of(case, lmm):
    """Two conversations of different lengths with answers."""
    answer = {"role": "assistant", "content": "It is so."}
    chosen = (case.conversations[0], case.conversations[-1])
    rows = [
        [*CONVERSATIONS[chosen[0]], answer],
        [*CONVERSATIONS[chosen[1]], answer, {"role": "user", "content": "Why?"}],
    ]
    return [make_example(lmm, read_messages(row, lmm.config.image), "") for row in rows]


def batch_of(case, lmm):
    """Them, padded to one length."""
    return collate(examples_of(case, lmm))


def logits(lmm, batch, **options):
    return np.array(lmm.decoder.logits(hidden_states(lmm, batch, **options)))


def test_a_later_token_changes_no_earlier_logit(model):
    case, lmm = model
    batch = batch_of(case, lmm)
    before = logits(lmm, batch)
    seen_ahead = 0 if batch.lookahead is None else int(batch.lookahead[1].max())
    tried = [at for at in range(max(seen_ahead, 1), int(batch.lengths[1]), 5) if not batch.visual[1, at]]
    for at in (tried[0], tried[len(tried) // 2], tried[-1]):
        ids = batch.ids.copy()
        ids[1, at] = (ids[1, at] + 101) % 250 + 20
        after = logits(lmm, replace(batch, ids=ids))
        assert np.abs(after[1, :at] - before[1, :at]).max() == 0
        assert np.abs(after[0] - before[0]).max() == 0
        assert np.abs(after[1, at:] - before[1, at:]).max() > 1e-3


def test_a_later_image_changes_no_earlier_logit(model):
    case, lmm = model
    batch = batch_of(case, lmm)
    if not batch.images or lmm.config.mask == "mutual":
        return
    features = FeatureCache(lmm).read(batch.images)
    before = logits(lmm, batch, features=features)
    last = batch.images[-1]
    after = logits(lmm, batch, features=features | {last.digest: features[last.digest] + 1})
    first_row = sum(image.tokens for image in batch.images[:-1])
    shown = batch.visual & (batch.feature >= first_row)
    row = int(np.flatnonzero(shown.any(axis=1))[-1])
    at = int(np.flatnonzero(shown[row])[0])
    assert np.abs(after[row, :at] - before[row, :at]).max() == 0
    assert np.abs(after[row, at:] - before[row, at:]).max() > 1e-3


def test_the_training_call_gives_the_logits_of_inference(model):
    """For every row of a padded batch, as if it stood alone."""
    case, lmm = model
    examples = examples_of(case, lmm)
    expected = [np.array(lmm.logits(example.prompt, gate=True))[0] for example in examples]
    for options in ({}, {"checkpoint": True}, {"path": None}):
        found = logits(lmm, collate(examples), **options)
        for row, right in zip(found, expected, strict=True):
            assert relative(row[: len(right)], right) < 1e-5


def test_padding_in_front_would_be_seen():
    """The check itself: a token that is attended does change the logits behind it."""
    lmm = tiny_model()
    batch = collate([make_example(lmm, read_messages([{"role": "user", "content": "abc"}], None), "")])
    ids = batch.ids.copy()
    ids[0, 0] += 1
    assert np.abs(logits(lmm, replace(batch, ids=ids))[0, -1] - logits(lmm, batch)[0, -1]).max() > 1e-3


def mutual():
    """A tiny model whose images see the rest of their turn, up to the token that opens the next one."""
    lmm = tiny_model(GateConfig(rank=2))
    lmm.config = replace(lmm.config, mask="mutual", tokens=replace(lmm.config.tokens, answer=START))
    return lmm


START = 1
TURNS = [
    ask("Or?", picture(8, 16, 1), picture(8, 8, 2)),
    {"role": "assistant", "content": "A"},
    ask("?", picture(8, 8, 3)),
    {"role": "assistant", "content": "B"},
]


def test_who_sees_whom_under_a_mutual_mask():
    """Token by token: which states change when a token does, in one row of a padded batch, against the rule."""
    lmm = mutual()
    longer = [{"role": "user", "content": "Something that is longer than the other row" * 3}, TURNS[1]]
    batch = collate([make_example(lmm, read_messages(row, lmm.config.image), "") for row in (TURNS, longer)])
    image = lmm.prompt(read_messages(TURNS, lmm.config.image), add_generation_prompt=False).token_map.image
    length, ids = int(batch.lengths[0]), batch.ids[0].tolist()
    assert length < batch.ids.shape[1]
    features = FeatureCache(lmm).read(batch.images)
    before = np.array(hidden_states(lmm, batch, features))
    for changed in range(length):
        if image[changed] >= 0:
            continue
        other = batch.ids.copy()
        other[0, changed] = 200 if ids[changed] != 200 else 201
        after = np.array(hidden_states(lmm, replace(batch, ids=other), features))
        moved = {int(i) for i in np.flatnonzero(np.abs(after[0, :length] - before[0, :length]).max(axis=-1))}
        seeing = {i for i in range(length) if i >= changed}
        for i in range(changed):
            ends = [a for a in range(i, length) if ids[a] == START]
            if image[i] >= 0 and ends and changed <= ends[0]:
                seeing |= {i, *range(i, length)}
        assert moved <= seeing, changed
        assert changed in moved
        assert (np.abs(after[1] - before[1]) == 0).all()
    lookahead = batch.lookahead[0]
    inside = {int(j) for start, stop in lookahead.T for j in range(start, stop)}
    assert inside and not any(batch.loss_mask[0, j] for j in inside)
    assert {ids[stop - 1] for start, stop in lookahead.T if stop > start} == {START}


def test_a_mutual_row_in_a_batch_is_that_row_alone():
    lmm = mutual()
    rows = [TURNS, TURNS[2:], [{"role": "user", "content": "long" * 20}, TURNS[1]]]
    examples = [make_example(lmm, read_messages(row, lmm.config.image), "") for row in rows]
    found = logits(lmm, collate(examples))
    for row, example in enumerate(examples):
        expected = np.array(lmm.logits(example.prompt, gate=True))[0]
        assert relative(found[row, : len(example)], expected) < 1e-5
        assert relative(logits(lmm, collate([example]))[0], expected) < 1e-5
