"""Every model family against transformers, live: logits, batches, chunks, answers, exports, golden files."""

from __future__ import annotations

import json
from functools import cache

import mlx.core as mx
import pytest
from families import CONVERSATIONS, cases, golden, kept_positions
from support import relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import rave_mlx  # noqa: E402
from parity import golden as reference  # noqa: E402
from rave_mlx.convert import convert  # noqa: E402
from rave_mlx.convert.exporting import export  # noqa: E402
from rave_mlx.generation.decode import step  # noqa: E402
from rave_mlx.generation.prefill import prefill  # noqa: E402

CASES = cases()


@pytest.fixture(scope="module", params=CASES)
def models(request, tmp_path_factory):
    """The case, its checkpoint as `save_pretrained` writes it, transformers' model and ours."""
    case = CASES[request.param]
    model = reference.hf_model(case)
    folder = reference.checkpoint(case, model, tmp_path_factory.mktemp(case.name) / "hf")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    return case, folder, model, rave_mlx.load(folder)


@pytest.fixture(scope="module")
def theirs(models):
    """transformers' logits of a conversation, computed once."""
    case, _, model, lmm = models
    return cache(lambda name: reference.hf_logits(case, model, [lmm.prepare(CONVERSATIONS[name])]))


def test_logits(models, theirs):
    case, _, _, lmm = models
    for name in case.conversations:
        assert relative(lmm.logits(lmm.prepare(CONVERSATIONS[name])), theirs(name)) <= 1e-5, name


def test_the_golden_file_is_up_to_date(models, theirs):
    case, _, model, _ = models
    shapes, logits = golden(case)
    assert shapes == reference.shapes(model)
    assert logits.keys() == set(case.conversations)
    for name, found in logits.items():
        expected = theirs(name)[0]
        assert relative(found, expected[kept_positions(len(expected))]) <= 1e-5, name  # written on another processor


def test_a_padded_batch(models):
    case, _, model, lmm = models
    first, last = case.conversations[0], case.conversations[-1]
    questions = [CONVERSATIONS[first], CONVERSATIONS[last]]
    if first == last:
        questions[1] = [{"role": "user", "content": "And something longer, please?"}]
    prompts = [lmm.prepare(q) for q in questions]
    ours, theirs = lmm.logits(prompts), reference.hf_logits(case, model, prompts)
    for row, prompt in enumerate(prompts):
        assert relative(ours[row, -len(prompt) :], theirs[row, -len(prompt) :]) <= 1e-5, row


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_prefill_in_chunks_and_decode(models, theirs, chunk):
    case, _, _, lmm = models
    prompt = lmm.prepare(CONVERSATIONS[case.conversations[-1]])
    expected = theirs(case.conversations[-1])
    if "-" in case.name:  # a variant: every family is read token by token once
        chunk = max(chunk, 3)
    cache = lmm.make_cache()
    assert relative(prefill(lmm, prompt, cache, chunk=chunk), expected[:, -1]) <= 1e-5
    if chunk == 7:
        cache.trim(len(prompt) - 1)
        last = mx.array(prompt.ids[0, -1:])
        again = step(lmm, cache, last, prompt.token_map.next_position - 1)
        assert relative(again, expected[:, -1]) <= 1e-5


def test_greedy_answers(models):
    case, _, model, lmm = models
    messages = CONVERSATIONS[case.conversations[min(1, len(case.conversations) - 1)]]
    inputs = reference.batch(case, [lmm.prepare(messages)])
    with torch.no_grad():
        out = model.generate(
            **inputs, max_new_tokens=16, do_sample=False, eos_token_id=list(lmm.config.tokens.stop), pad_token_id=0
        )
    expected = out[0, inputs["input_ids"].shape[1] :].tolist()
    assert [p.token for p in rave_mlx.stream(lmm, messages, max_tokens=16)] == expected


def test_an_export_opens_in_transformers(models, theirs, tmp_path):
    case, folder, model, lmm = models
    convert(folder, tmp_path / "rave")
    export(tmp_path / "rave", tmp_path / "again")
    again, report = type(model).from_pretrained(
        tmp_path / "again", dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    prompt = lmm.prepare(CONVERSATIONS[case.conversations[-1]])
    expected = theirs(case.conversations[-1])
    weights = again.state_dict()
    assert all(torch.equal(x, weights[name]) for name, x in model.state_dict().items())
    # The same numbers elsewhere in memory: torch's products of experts may then add in another order.
    assert relative(reference.hf_logits(case, again.eval(), [prompt]), expected) <= 1e-6
    assert json.loads((tmp_path / "again" / "config.json").read_text())["model_type"] == case.config["model_type"]
