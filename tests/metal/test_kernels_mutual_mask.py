"""Modality-mutual attention through the kernels: they read the boolean mask, with keys ahead of their queries."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from support import ask, picture, relative, tiny_model
from test_kernels_model import GATES, SHAPE, kernels

from rave_mlx.generation.decode import step
from rave_mlx.generation.prefill import prefill

__all__ = ["kernels"]


def mutual(gate):
    """A tiny model with the mutual mask; <|im_start|> starts an answer."""
    lmm = tiny_model(GATES[gate], **SHAPE)
    lmm.config = replace(lmm.config, mask="mutual", tokens=replace(lmm.config.tokens, answer=1))
    return lmm


@pytest.mark.parametrize("gate", GATES)
def test_a_padded_batch_gives_the_logits_of_the_reference_path(gate, kernels):
    lmm = mutual(gate)
    batch = [lmm.prepare([ask("What is the total?", picture(64, 48))]), lmm.prepare([ask("Date?", picture(32, 32))])]
    together = np.array(lmm.logits(batch, path="kernel"))
    for prompt, row in zip(batch, together, strict=True):
        assert relative(row[-len(prompt) :], np.array(lmm.logits(prompt, path="reference"))[0]) <= 1e-5
    causal = tiny_model(GATES[gate], **SHAPE)
    prompt = causal.prepare([ask("What is the total?", picture(64, 48))])
    assert relative(causal.logits(prompt, path="reference")[0, -1], together[0, -1]) > 1e-3
    assert set(kernels) == {"prefill"}


def test_prefill_in_chunks_and_decode_equal_one_pass(kernels):
    lmm = mutual("half")
    prompt = lmm.prepare([ask("What is the total?", picture(64, 48))])
    whole = np.array(lmm.logits(prompt, path="reference"))[0]
    cache = lmm.make_cache()
    assert relative(prefill(lmm, prompt, cache, chunk=7, path="kernel")[0], whole[-1]) <= 1e-5
    cache.trim(len(prompt) - 1)
    logits = step(lmm, cache, mx.array(prompt.ids[0, -1:]), prompt.token_map.next_position - 1, path="kernel")
    assert relative(logits[0], whole[-1]) <= 1e-5
    assert {"prefill", "decode of raw queries"} <= set(kernels) <= {"prefill", "decode", "decode of raw queries"}
