"""What a written token costs a GPU, in operations: literals, so that nobody adds one unseen (docs/performance.md)."""

from __future__ import annotations

import mlx.core as mx
import pytest

from benchmarks import decode_operations
from benchmarks.decode_operations import as_on_a_gpu, lm, operations, rave
from rave_mlx.config import ExpertsConfig, RopeConfig


def a_layer(**options):
    """Operations of one layer, and of everything outside of the layers."""
    one, two = (rave(layers=n, **options).total() for n in (1, 2))
    return two - one, 2 * one - two


def test_a_layer_of_the_decoder():
    # 4 products (queries, keys and values are one, both halves of the MLP are one), a bias, 2 norms, a rotation, keys
    # and values into the cache, attention, SwiGLU, 2 sums; outside the embedding (3 lookups, 1 expansion), a norm, the
    # vocabulary and the choice.
    assert a_layer(gated=False) == (14, 7)


def test_a_gated_layer():
    # Attention over many keys is a kernel of ours and one that joins its parts, instead of one of MLX; no more.
    assert a_layer(gated=True) == (15, 7)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"qkv_bias": False}, 13),
        ({"qkv_bias": False, "qk_norm": True, "rope": RopeConfig(5e6, (12, 10, 10), interleaved=True)}, 16),
        # Router, softmax, the choice, its shares, their sum, the division, 3 products and their lists, and the sum.
        ({"qkv_bias": False, "experts": ExpertsConfig(16, 4, 64)}, 25),
    ],
    ids=["llama", "qwen3_vl", "experts"],
)
def test_a_layer_of_other_decoders(changes, expected):
    assert a_layer(gated=False, **changes)[0] == expected


def test_less_than_mlx_lm(monkeypatch):
    monkeypatch.setattr(decode_operations, "LAYERS", 2)
    monkeypatch.setitem(decode_operations.QWEN2, "num_hidden_layers", 2)
    assert rave(gated=False, layers=2).total() < 0.8 * lm().total()
    assert rave(gated=True, layers=2).total() < 0.85 * lm().total()


def test_what_is_counted():
    x = mx.ones((4, 4))
    mx.eval(x)
    assert dict(operations(mx.exp(x.T.reshape(2, 8)[:1]) + 1)) == {"Exp": 1, "Add": 1}
    with as_on_a_gpu():
        assert operations(mx.fast.rms_norm(x, None, 1e-5)).total() == 1
    assert operations(mx.fast.rms_norm(x, None, 1e-5)).total() > 1
