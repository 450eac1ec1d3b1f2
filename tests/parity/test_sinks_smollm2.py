"""Attention sinks of real weights (SmolLM2-135M-Instruct): found by dimension and by direction, in agreement with the
hidden states and the attention weights of transformers."""

from __future__ import annotations

import numpy as np
import pytest

from parity.test_smollm2 import file, lmm, reference  # noqa: F401
from rave_mlx.inputs.prompt.message import Message, TextPart
from rave_mlx.policies.sink_tokens import Profile, classify_sinks, profile

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def found(lmm):  # noqa: F811
    return profile(lmm)


@pytest.fixture(scope="module")
def expected(lmm, reference):  # noqa: F811
    """transformers' hidden states (layers + 1, tokens, hidden) and attention (layers, H, L, L) for the same text."""
    ids = lmm.prompt([Message("user", (TextPart(Profile.TEXT),), plain=True)]).ids
    model = reference[1]
    model.set_attn_implementation("eager")
    last = []
    handle = model.model.layers[-1].register_forward_hook(lambda module, args, output: last.append(output))
    with torch.no_grad():
        seen = model(torch.tensor(ids.astype(np.int64)), output_hidden_states=True, output_attentions=True)
    handle.remove()
    output = last[0][0] if isinstance(last[0], tuple) else last[0]
    states = [*seen.hidden_states[:-1], output.reshape(seen.hidden_states[0].shape)]
    return torch.cat(states).numpy(), torch.cat(seen.attentions).numpy()


def test_states_are_those_of_transformers(found, expected):
    states, _ = expected
    assert found.states.shape == states.shape == (31, len(states[0]), 576)
    np.testing.assert_allclose(found.states, states, atol=2e-3 * np.abs(states).max())


def test_sink_dimensions_and_layers(found):
    assert found.dims == (507, 247)
    assert found.layers == range(12, 29)
    values = np.abs(found.states[:-1, :, list(found.dims)]).max(-1) / np.sqrt((found.states[:-1] ** 2).mean(-1))
    massive = values >= 20
    inside = massive[found.layers.start : found.layers.stop]
    assert inside[:, 0].all()
    assert not inside[:, 1:].any()
    assert not massive[:2].any()


def test_the_token_found_is_the_one_that_attention_goes_to(found, expected):
    """In the layers of its massive state, the first token holds most of the attention of the tokens after it."""
    _, attention = expected
    assert [(sink.token, sink.kind) for sink in classify_sinks(found.states)] == [(0, "bos")]
    inside = attention[found.layers.start : found.layers.stop, :, 5:, 0].mean()
    assert inside > 0.5
    assert attention[:2, :, 5:, 0].mean() < 0.5 * inside
