"""A tokenizer that begins every text with a start token, and a chat template that leaves this to it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from support import relative

import rave_mlx
from rave_mlx.inputs.prompt.message import Role

FAMILIES = ("idefics3", "internvl", "llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl",
            "paddleocr_vl", "glm_ocr", "glm4v", "pixtral", "mistral3", "lighton_ocr",
            "got_ocr2", "deepseek_ocr2")  # fmt: skip
READERS = [name for name, case in cases().items() if name in FAMILIES and len(case.conversations) > 1]


def begin_with(folder, index):
    """Let the tokenizer put its token `index` before every text."""
    data = json.loads((folder / "tokenizer.json").read_text())
    start = next(token["content"] for token in data["added_tokens"] if token["id"] == index)
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": start, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {start: {"id": start, "ids": [index], "tokens": [start]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(data))


@pytest.fixture(scope="module", params=READERS)
def models(request, tmp_path_factory):
    """A tiny checkpoint without a start token, and the same one with it."""
    plain, started = (
        write_checkpoint(cases()[request.param], tmp_path_factory.mktemp(kind) / request.param)
        for kind in ("plain", "started")
    )
    begin_with(started, 0)
    return rave_mlx.load(plain), rave_mlx.load(started)


@pytest.mark.parametrize("conversation", ["text", "one image", "two images, two turns", "image between words"])
def test_everything_that_is_known_of_a_token_moves_with_it(models, conversation):
    plain, started = (lmm.prepare(CONVERSATIONS[conversation]) for lmm in models)
    before, after = plain.token_map, started.token_map
    assert started.ids[0].tolist() == [0, *plain.ids[0].tolist()]
    assert after.role.tolist() == [Role.TEMPLATE, *before.role.tolist()]
    assert after.image.tolist() == [-1, *before.image.tolist()]
    assert after.message.tolist() == [-1, *before.message.tolist()]
    assert after.positions.tolist() == np.insert(before.positions + 1, 0, 0, axis=1).tolist()
    placeholder = models[1].config.tokens.image
    assert (started.ids[0][after.visual] == placeholder).all()
    assert started.visual_tokens == sum(image.tokens for image in started.images)


def test_batches_and_cached_readings_agree(models):
    lmm = models[1]
    prompts = [lmm.prepare(CONVERSATIONS[name]) for name in ("one image", "two images, two turns")]
    together = np.array(lmm.logits(prompts))
    for row, prompt in zip(together, prompts, strict=True):
        alone = np.array(lmm.logits(prompt))[0]
        assert relative(row[-len(prompt) :], alone) < 1e-4
        cache = lmm.make_cache()
        for stop in (len(prompt) // 3, len(prompt) // 2, len(prompt)):
            hidden = lmm.read(prompt, cache, stop)
        assert relative(np.array(lmm.decoder.logits(hidden))[0, -1], alone[-1]) < 1e-4


def test_a_longer_conversation_begins_with_the_shorter_one(models):
    lmm = models[1]
    first, longer = (lmm.prepare(CONVERSATIONS["two images, two turns"][:turns]) for turns in (1, 3))
    assert first.same_until(longer) >= len(first) - 2  # what follows the question may differ, as where an answer begins
