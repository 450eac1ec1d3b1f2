"""Answers that end in another stop token than the one with which the chat template ends a turn.

The built-in model's template ends every turn with <|im_end|> (2), and <|endoftext|> (0) ends an answer, too. When a
stop token is handed out, the step after it has been queued: the cache holds that token's key and value, at the very
place where the next prompt has <|im_end|>.
"""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest
from support import ask, model_rounding, picture, relative, tiny_model

from rave_mlx.api import stream
from rave_mlx.chat.session import Session
from rave_mlx.config import GateConfig
from rave_mlx.generation.prefill import prefill
from rave_mlx.inputs.prompt.message import Message, TextPart

END_OF_TURN, END_OF_TEXT = 2, 0
QUESTION = ask("What is the total?", picture(48, 40))


def model_that_ends(after: int, stop: tuple[int, ...] = (END_OF_TURN, END_OF_TEXT)):
    """A model whose greedy answer to QUESTION is <|endoftext|> after that many tokens, and those tokens."""
    lmm = tiny_model(GateConfig(rank=4, kv_groups=0.5))
    ids = [piece.token for piece in stream(lmm, [QUESTION], max_tokens=after + 1)]
    assert len(ids) == after + 1 and ids[-1] not in (*ids[:-1], END_OF_TURN, END_OF_TEXT)
    # What would have been the last token and <|endoftext|> change places in the head.
    rows = list(range(lmm.config.text.vocab_size))
    rows[ids[-1]], rows[END_OF_TEXT] = END_OF_TEXT, ids[-1]
    lmm.decoder.head.weight = lmm.decoder.head.weight[mx.array(rows)]
    lmm.config = replace(lmm.config, tokens=replace(lmm.config.tokens, stop=stop))
    return lmm, ids[:-1]


@pytest.mark.parametrize("after", [0, 1, 4])
@pytest.mark.parametrize("stop", [(END_OF_TURN, END_OF_TEXT), (END_OF_TEXT, END_OF_TURN), (END_OF_TEXT,)])
def test_the_next_turn_reads_on_from_the_last_token_of_the_answer(after, stop):
    lmm, words = model_that_ends(after, stop)
    session = Session(lmm, max_tokens=12)
    pieces = list(session.answer([QUESTION]))
    first = session.stats
    assert [piece.token for piece in pieces] == [*words, END_OF_TEXT]
    assert pieces[-1].finish == "stop"
    assert session.messages[-1].parts[0].ids == tuple(words)
    assert session._cache.length == first.prompt_tokens + after

    before = list(session.messages)
    prompt = lmm.prompt([*before, Message("user", (TextPart("And?"),))])
    kept = first.prompt_tokens + after
    assert prompt.ids[0, first.prompt_tokens : kept + 1].tolist() == [*words, END_OF_TURN]
    found = [piece.token for piece in session.send("And?")]
    assert session.stats.reused_tokens == kept
    fresh = Session(lmm, max_tokens=12)
    fresh.resume(before)
    assert found == [piece.token for piece in fresh.send("And?")]
    assert fresh.stats.reused_tokens == 0


def test_the_next_turns_logits_are_those_of_a_fresh_reading():
    lmm, words = model_that_ends(4)
    session = Session(lmm, max_tokens=12)
    list(session.answer([QUESTION]))
    prompt = lmm.prompt([*session.messages, Message("user", (TextPart("And?"),))])
    cache, reused = session._reuse(prompt)
    assert reused == session.stats.prompt_tokens + len(words)
    found = prefill(lmm, prompt, cache)
    assert relative(found, lmm.logits(prompt)[:, -1]) <= model_rounding(lmm, len(prompt))
