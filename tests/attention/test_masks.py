"""Attention masks against a definition token by token."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from rave_mlx.attention.masks import as_bool, causal, decoder_mask


def defined(queries, keys, window=None, pads=(0,), lookahead=None):
    """Whether query i of row b may see key j, from the words of the documentation."""
    out = np.zeros((len(pads), 1, queries, keys), bool)
    for b, pad in enumerate(pads):
        for i in range(queries):
            row = keys - queries + i
            for j in range(keys):
                seen = j <= row or (lookahead is not None and lookahead[b][0][i] <= j < lookahead[b][1][i])
                if window is not None:
                    seen = seen and row - j < window
                out[b, 0, i, j] = (seen and j >= pad) or row == j
    return out


def marks(keys, pads):
    return mx.array(np.arange(keys) >= np.array(pads)[:, None])


@pytest.mark.parametrize("queries", [1, 3, 8])
@pytest.mark.parametrize("window", [1, 2, 5, 7])
def test_a_window(queries, window):
    assert (np.array(decoder_mask(queries, 8, window=window)) == defined(queries, 8, window)).all()


def test_a_window_of_three_in_words():
    rows = np.array(decoder_mask(2, 5, window=3))[0, 0].astype(int).tolist()
    assert rows == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]


@pytest.mark.parametrize("window", [None, 2, 4, 100])
@pytest.mark.parametrize("queries", [1, 4, 9])
def test_a_padded_batch(queries, window):
    pads = (0, 3, 6)
    found = decoder_mask(queries, 9, valid=marks(9, pads), window=window)
    assert (np.array(found) == defined(queries, 9, window, pads)).all()
    assert np.array(found).any(-1).all(), "a query that sees nothing would be NaN"


@pytest.mark.parametrize("window", [None, 3])
def test_opened_keys(window):
    lookahead = [[[4, 4, 0, 0, 0, 0], [6, 6, 0, 0, 0, 0]], [[0, 0, 5, 0, 0, 0], [0, 0, 6, 0, 0, 0]]]
    pads = (0, 1)
    found = decoder_mask(6, 6, valid=marks(6, pads), window=window, lookahead=mx.array(lookahead))
    assert (np.array(found) == defined(6, 6, window, pads, lookahead)).all()


def test_where_nothing_is_special_the_fast_form_is_used():
    assert decoder_mask(4, 9) == "causal"
    assert decoder_mask(4, 9, window=9) == "causal"
    assert decoder_mask(4, 9, window=8) != "causal"
    assert (np.array(as_bool("causal", 4, 9)) == np.array(causal(4, 9))).all()
    assert (np.array(causal(4, 9)) == defined(4, 9)[0, 0]).all()
    assert as_bool(None, 4, 9) is None
