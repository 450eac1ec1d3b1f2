"""Training the decoder alone, on pages that the tower saw once; Muon against torch's."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402

from recipes.builtin import packed, replay, train  # noqa: E402
from recipes.builtin.config import TrainConfig  # noqa: E402
from recipes.builtin.data import Mixture, meaning_page_for  # noqa: E402
from recipes.builtin.losses import see  # noqa: E402
from recipes.builtin.muon import Muon, orthogonal  # noqa: E402

CONFIG = TrainConfig(minutes=1e9, warmup_minutes=1e-9, head_minutes=0, counting=0, meaning=1, decoder_only=True,
                     visits_per_step=2, threads=1)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run from the built-in model's weights that has not stepped yet."""
    torch.set_num_threads(1)
    return train.Run(CONFIG, packed.BUILT_IN, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def seen(run):
    rng = Random(4)
    found = []
    while len(found) < 2:
        page, canvas = meaning_page_for(rng, 200, False, 3)
        if len(page.questions) > 12:
            found.append((page, replay.look_at(run.model, page, canvas)))
    return found


@pytest.mark.parametrize("shape", [(48, 96), (96, 48)])
def test_singular_values_come_near_one(shape):
    update = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(update))
    assert values.min() > 0.6 and values.max() < 1.25


def test_steps_are_those_of_torch():
    """Up to bfloat16, in which torch's are computed."""
    start = torch.randn(64, 96, generator=torch.Generator().manual_seed(1))
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    options = {"lr": 0.02, "weight_decay": 0.05, "momentum": 0.95}
    steps = Muon([ours], **options), torch.optim.Muon([theirs], **options, adjust_lr_fn="match_rms_adamw")
    for number in range(4):
        gradient = torch.randn(64, 96, generator=torch.Generator().manual_seed(10 + number))
        for parameter, optimizer in zip((ours, theirs), steps, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved
    assert moved > 0.1


def test_a_seen_page_keeps_what_the_tower_made_of_it(run, seen):
    for page, kept in seen:
        shown = page.image.resize(kept.canvas[::-1], Image.Resampling.BICUBIC)
        with torch.no_grad():
            tokens = see(run.model, torch.from_numpy(np.array(shown))[None])[0]
        assert np.abs(tokens.numpy() - kept.tokens).max() < 2e-3 * np.abs(kept.tokens).max()
        assert kept.page.image.size == page.image.size
        assert kept.page.questions == page.questions


def test_a_page_is_asked_in_other_words_each_round():
    config_rounds = [meaning_page_for(Random(9), 400, False, rounds)[0] for rounds in (1, 3)]
    one, three = ({q.text for q in page.questions} for page in config_rounds)
    assert len(three) > 1.5 * len(one)


def test_only_the_decoder_learns_and_it_does(run, seen, monkeypatch):
    monkeypatch.setattr(replay, "TEXT", 160)
    visits = replay.Replay.__new__(replay.Replay)
    visits.rng = Random(2)
    step = [visits._visit(kept) for _, kept in seen]
    for tokens, batch in step:
        assert tokens.shape[1] == batch.rows[0].size
        assert batch.ids.shape == batch.label.shape == batch.target.shape
        assert (batch.segment[0] >= 0).all() or batch.ids.shape[1] == 32
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    losses = [run.learn_visits(step)["answer"] for _ in range(4)]
    assert losses[-1] < 0.8 * losses[0]
    changed = {name for name, p in run.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all(name.startswith("language_model.") for name in changed)


def test_pages_come_from_a_process_and_are_asked_a_few_times(run, monkeypatch):
    monkeypatch.setattr(replay, "POOL", 4)
    monkeypatch.setattr(replay, "SIZES", ((120, 1.0),))
    pages = replay.Replay(run.model, 3, Mixture(1.0))
    visits = iter(pages)
    taken = [next(visits) for _ in range(3 * replay.VISITS)]
    pages.process.terminate()
    assert 1 <= pages.drawn <= 4 + 3
    shown = [tokens.numpy().tobytes() for tokens, _ in taken]
    assert max(shown.count(each) for each in shown) <= replay.VISITS
    assert len({batch.ids.tobytes() for _, batch in taken}) > len(set(shown))


def test_the_state_goes_on(run, tmp_path, seen):
    run.state = tmp_path / "state.pt"
    run.store()
    other = train.Run(replace(CONFIG, seed=1), packed.BUILT_IN, tmp_path)
    assert other.step == run.step
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), other.model.parameters(), strict=True))
