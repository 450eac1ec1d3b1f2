"""No token sees a later one under the exact training call, for every model family; peers' trainers leak there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from support import relative, tiny_model

import rave_mlx
from rave_mlx.adapters import with_gates
from rave_mlx.config import GateConfig
from rave_mlx.messages import read_messages
from rave_mlx.train.batch import collate
from rave_mlx.train.example import make_example
from rave_mlx.train.features import FeatureCache
from rave_mlx.train.forward import hidden_states

CASES = cases()


@pytest.fixture(scope="module", params=CASES)
def model(request, tmp_path_factory):
    """The case, and its model with random, active gates."""
    case = CASES[request.param]
    lmm = rave_mlx.load(write_checkpoint(case, tmp_path_factory.mktemp(case.name) / "hf"))
    if lmm.config.gate is None:
        lmm = with_gates(lmm, GateConfig(rank=2), Path(case.name))
    rng = np.random.default_rng(0)
    gates = {n: x for n, x in lmm.named_weights().items() if ".attention.gate." in n}
    lmm.load_weights(
        [(n, mx.array(rng.normal(0, 0.5, x.shape).astype(np.float32))) for n, x in gates.items()], strict=False
    )
    return case, lmm


def batch_of(case, lmm):
    """Two conversations of different lengths with answers."""
    answer = {"role": "assistant", "content": "It is so."}
    chosen = (case.conversations[0], case.conversations[-1])
    rows = [
        [*CONVERSATIONS[chosen[0]], answer],
        [*CONVERSATIONS[chosen[1]], answer, {"role": "user", "content": "Why?"}],
    ]
    return collate([make_example(lmm, read_messages(row, lmm.config.image), "") for row in rows])


def logits(lmm, batch, **options):
    return np.array(lmm.decoder.logits(hidden_states(lmm, batch, **options)))


def test_a_later_token_changes_no_earlier_logit(model):
    case, lmm = model
    batch = batch_of(case, lmm)
    before = logits(lmm, batch)
    seen_ahead = 0 if batch.opened is None else int(batch.opened[1].max())
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
    at = int(np.flatnonzero(batch.visual[1] & (batch.feature[1] >= first_row))[0])
    assert np.abs(after[1, :at] - before[1, :at]).max() == 0
    assert np.abs(after[1, at:] - before[1, at:]).max() > 1e-3


def test_images_see_the_rest_of_their_turn_and_no_answer(model):
    """What a model with a mutual mask lets its images see ends where the answer begins."""
    case, lmm = model
    batch = batch_of(case, lmm)
    if batch.opened is None:
        assert lmm.config.mask == "causal" or not batch.images
        return
    answer = lmm.config.tokens.answer
    for row in range(len(batch)):
        starts, stops = batch.opened[row]
        opening = np.flatnonzero(stops > starts)
        assert (batch.visual[row, opening]).all()
        assert {int(batch.ids[row, stop - 1]) for stop in stops[opening]} == {answer}
        assert not any(batch.trained[row, start:stop].any() for start, stop in zip(starts, stops, strict=True))
    before = logits(lmm, batch)
    row = int(batch.visual.any(axis=1).argmax())
    at = int(batch.opened[row, 1].max()) - 2
    ids = batch.ids.copy()
    ids[row, at] = (ids[row, at] + 101) % 250 + 20
    after = logits(lmm, replace(batch, ids=ids))
    assert (
        np.abs(after[row, : batch.visual[row].argmax()] - before[row, : batch.visual[row].argmax()]).max(initial=0) == 0
    )
    assert np.abs(after[row][batch.visual[row]] - before[row][batch.visual[row]]).max() > 1e-4


def test_the_training_call_gives_the_logits_of_inference(model):
    case, lmm = model
    batch = batch_of(case, lmm)
    answer = {"role": "assistant", "content": "It is so."}
    prompt = lmm.prompt(
        read_messages([*CONVERSATIONS[case.conversations[0]], answer], lmm.config.image), add_generation_prompt=False
    )
    expected = np.array(lmm.logits(prompt, gate=True))[0]
    for options in ({}, {"checkpoint": True}, {"path": None}):
        found = logits(lmm, batch, **options)[0, : len(prompt)]
        assert relative(found, expected) < 1e-5


def test_padding_in_front_would_be_seen():
    """The check itself: a token that is attended does change the logits behind it."""
    lmm = tiny_model()
    batch = collate([make_example(lmm, read_messages([{"role": "user", "content": "abc"}], None), "")])
    ids = batch.ids.copy()
    ids[0, 0] += 1
    assert np.abs(logits(lmm, replace(batch, ids=ids))[0, -1] - logits(lmm, batch)[0, -1]).max() > 1e-3
