"""A cache of several rows with holes gives the logits of each row's tokens in one pass, whatever happens to it."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from families.aki import write_released
from support import ask, model_rounding, picture, relative, tiny_model

import rave_mlx
from rave_mlx.config import GateConfig
from rave_mlx.generation.batch_cache import BatchCache, CachedRow
from rave_mlx.generation.decode import continued
from rave_mlx.generation.prefill import prefill
from rave_mlx.generation.prefix_store import fork
from rave_mlx.models.lmm import LMM


def gated():
    return tiny_model(GateConfig(rank=4, kv_groups=0.5))


def sliding():
    return tiny_model(GateConfig(rank=4, kv_groups=0.5), sliding_window=7, sliding_layers=(0, 2))


def mutual(folder):
    return rave_mlx.load(write_released(folder))


SHORT = {"role": "system", "content": "S"}
"""In place of AKI's long one: rotary frequencies change at 180 tokens there."""
PROMPTS = [
    [SHORT, ask("Go.", picture(24, 40, 1))],
    [SHORT, {"role": "user", "content": "What?"}],
    [SHORT, ask("Compare the two pictures.", picture(16, 24, 2), picture(40, 24, 3))],
    [SHORT, ask("Read.", picture(48, 16, 4))],
]


class Rows:
    """Rows of one cache, each with its prompt and the tokens that were kept after it."""

    def __init__(self, lmm: LMM, prompts):
        self.lmm, self.prompts, self.answers = lmm, list(prompts), [[] for _ in prompts]
        self.cache = BatchCache([self.read(prompt) for prompt in prompts])

    def read(self, prompt) -> CachedRow:
        cache = self.lmm.make_cache()
        prefill(self.lmm, prompt, cache)
        return CachedRow.whole(cache, prompt.token_map.visual)

    def positions(self, width):
        starts = [p.token_map.next_position + len(a) for p, a in zip(self.prompts, self.answers, strict=True)]
        return mx.array([[[start + i for i in range(width)]] * 3 for start in starts])

    def step(self, new):
        """Logits (B, n, vocab) after new tokens, a list for each row."""
        width = max(map(len, new))
        ids = mx.array([tokens + [5] * (width - len(tokens)) for tokens in new])
        hidden = self.lmm.decoder.hidden(
            self.lmm.decoder.embed_ids(ids),
            self.positions(width),
            None,
            cache=self.cache,
            gate_span=self.cache.visual_span if self.cache.gated else None,
            valid=self.cache.announce([len(tokens) for tokens in new]),
        )
        return self.lmm.decoder.logits(hidden)

    def keep(self, new, counts):
        self.cache.keep(counts, max(map(len, new)))
        for answer, tokens, count in zip(self.answers, new, counts, strict=True):
            answer.extend(tokens[:count])

    def join(self, prompt):
        held = [self.cache.row(i) for i in range(self.cache.num_rows)]
        self.cache = BatchCache([*held, self.read(prompt)])
        self.prompts.append(prompt)
        self.answers.append([])

    def leave(self, index):
        self.cache = BatchCache([self.cache.row(i) for i in range(self.cache.num_rows) if i != index])
        del self.prompts[index], self.answers[index]

    def expected(self, index, tokens):
        prompt = continued(self.prompts[index], [*self.answers[index], *tokens])
        return np.array(self.lmm.logits(prompt))[0, -len(tokens) :]


@pytest.mark.parametrize("kind", [gated, sliding, mutual])
@pytest.mark.parametrize("seed", range(2))
def test_random_joining_leaving_and_rejecting(kind, seed, tmp_path):
    lmm = kind(tmp_path) if kind is mutual else kind()
    prompts = [lmm.prepare(messages) for messages in PROMPTS]
    rng = np.random.default_rng(seed)
    rows = Rows(lmm, [prompts[i] for i in rng.permutation(4)[:2]])
    for _ in range(6):
        new = [rng.integers(20, 250, rng.integers(1, 5)).tolist() for _ in rows.prompts]
        found = np.array(rows.step(new))
        for index, tokens in enumerate(new):
            bound = model_rounding(lmm, len(rows.prompts[index]) + len(rows.answers[index]) + len(tokens))
            assert relative(found[index, : len(tokens)], rows.expected(index, tokens)) <= bound
        rows.keep(new, [int(rng.integers(1, len(tokens) + 1)) for tokens in new])
        match rng.integers(4):
            case 0:
                rows.join(prompts[rng.integers(4)])
            case 1 if len(rows.prompts) > 1:
                rows.leave(int(rng.integers(len(rows.prompts))))
            case 2:
                rows.cache = BatchCache([rows.cache.row(i) for i in range(rows.cache.num_rows)])
                assert rows.cache.real.any(axis=0).all()
    assert rows.cache.length == rows.cache.real.shape[1] == rows.cache.visual.shape[1]


def test_what_is_gathered_is_copied_bit_for_bit():
    lmm = gated()
    rows = Rows(lmm, [lmm.prepare(messages) for messages in PROMPTS[:2]])
    rows.step([[7, 8, 9], [10]])
    rows.keep([[7, 8, 9], [10]], [2, 1])
    before = [rows.cache.row(i) for i in range(2)]
    after = BatchCache(before[::-1])
    for old, new in zip(rows.cache.layers, after.layers, strict=True):
        for x, y in zip(old.arrays, new.arrays, strict=True):
            for index, row in enumerate(before):
                taken = np.array(x)[index][:, row.slots]
                assert (np.array(y)[1 - index][:, : len(row.slots)] == taken).all()
                assert not np.array(y)[1 - index][:, len(row.slots) :].any()


def test_slots_that_nobody_has_are_given_up():
    lmm = gated()
    rows = Rows(lmm, [lmm.prepare(messages) for messages in PROMPTS[:2]])
    length = rows.cache.length
    new = [[7, 8, 9, 10], [7, 8, 9, 10]]
    rows.step(new)
    rows.keep(new, [1, 2])
    assert rows.cache.length == length + 2
    assert rows.cache.real[:, -2:].tolist() == [[True, False], [True, True]]
    assert rows.cache.share_real < 1


def test_equal_rows_without_holes_need_no_mask():
    lmm = gated()
    rows = Rows(lmm, [lmm.prepare(PROMPTS[0])] * 2)
    assert rows.cache.announce([1, 1]) is None
    assert rows.cache.announce([1, 0]) is not None


def test_what_a_row_came_from_is_left_as_it_is():
    """Shared prefixes: a cache that was given to a batch, or forked, does not see what comes after."""
    lmm = gated()
    prompt = lmm.prepare(PROMPTS[0])
    cache = lmm.make_cache()
    prefill(lmm, prompt, cache)
    held = [np.array(x[:, :, : cache.length]) for layer in cache.layers for x in layer.arrays]
    one = fork(cache, 5)
    prefill(lmm, lmm.prepare([ask("Another.", picture(24, 40, 1))]), one)
    rows = BatchCache([CachedRow.whole(cache, prompt.token_map.visual)])
    x, positions = mx.zeros((1, 1, 48)), mx.zeros((1, 3, 1), mx.int32)
    lmm.decoder.hidden(x, positions, None, cache=rows, gate_span=rows.visual_span)
    assert one.length > 5
    assert cache.length == len(prompt) == rows.length - 1
    now = [np.array(x[:, :, : cache.length]) for layer in cache.layers for x in layer.arrays]
    assert all((x == y).all() for x, y in zip(held, now, strict=True))
