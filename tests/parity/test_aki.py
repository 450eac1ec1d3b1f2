"""AKI against a model composed of transformers' SigLIP and Phi-3 (see aki_reference.py)."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, golden, kept_positions
from families.aki import CASE
from support import ask, picture, relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.numpy import load_file  # noqa: E402

import rave_mlx  # noqa: E402
from parity import aki_reference as reference  # noqa: E402
from rave_mlx.config import TokenConfig  # noqa: E402
from rave_mlx.convert import convert  # noqa: E402
from rave_mlx.convert.exporting import export  # noqa: E402
from rave_mlx.convert.families.aki import TEMPLATE  # noqa: E402
from rave_mlx.generation.prefill import prefill  # noqa: E402
from rave_mlx.inputs.prompt.chat_template import ChatTemplate  # noqa: E402
from rave_mlx.inputs.prompt.message import Message, TextPart  # noqa: E402
from rave_mlx.inputs.prompt.parse_messages import read_messages  # noqa: E402
from rave_mlx.inputs.prompt.prompt import build_prompt  # noqa: E402
from rave_mlx.inputs.prompt.tokenizer import Tokenizer  # noqa: E402


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The reference, its checkpoint and ours."""
    model = reference.model()
    folder = reference.write(tmp_path_factory.mktemp("aki") / "hf", model)
    return model, folder, rave_mlx.load(folder)


def collapsed(prompt):
    """The ids with one token for every image."""
    image = prompt.token_map.image
    return [i for i, own, before in zip(prompt.ids[0].tolist(), image, np.roll(image, 1), strict=True)
            if own < 0 or own != before]  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_prompts_and_logits(models, name):
    model, folder, lmm = models
    ids, images = reference.prompt(folder / "tokenizer.json", CONVERSATIONS[name])
    prompt = lmm.prepare(CONVERSATIONS[name])
    assert collapsed(prompt) == ids
    expected = model(ids, images)
    assert relative(lmm.logits(prompt)[0], expected) <= 1e-5
    assert relative(prefill(lmm, prompt, lmm.make_cache(), chunk=16)[0], expected[-1]) <= 1e-5


def test_the_conversations_have_lengths_on_both_sides_of_the_pre_training_context(models):
    _, _, lmm = models
    lengths = [len(lmm.prepare(messages)) for messages in CONVERSATIONS.values()]
    assert min(lengths) < lmm.config.text.rope.scaling.original_positions < max(lengths)


def test_the_mask_matters(models):
    """With a causal mask the same checkpoint says something else; without an image it does not."""
    _, _, lmm = models
    for name, differs in (("text", False), ("one image", True)):
        prompt = lmm.prepare(CONVERSATIONS[name])
        tokens = prompt.token_map
        hidden = lmm.decoder.hidden(
            lmm.embed(prompt, 0, len(prompt))[0], mx.array(tokens.positions[None]), mx.array(tokens.visual[None])
        )
        assert (relative(lmm.decoder.logits(hidden), lmm.logits(prompt)) > 1e-3) == differs


def test_a_padded_batch(models):
    model, folder, lmm = models
    conversations = [CONVERSATIONS["one image"], CONVERSATIONS["text"], CONVERSATIONS["odd size"]]
    prompts = [lmm.prepare(messages) for messages in conversations]
    together = lmm.logits(prompts)
    for row, messages in enumerate(conversations):
        expected = model(*reference.prompt(folder / "tokenizer.json", messages))
        # In a batch, rotary factors are those of its longest prompt; all of these stay below the original context.
        assert relative(together[row, -len(expected) :], expected) <= 1e-5


def test_an_answer_that_is_read(models):
    """Teacher forcing: the image does not see the answer."""
    model, folder, lmm = models
    messages = CONVERSATIONS["one image"]
    ids, images = reference.prompt(folder / "tokenizer.json", messages)
    said = (90, 40, 111, 65, 30)
    expected = model([*ids, *said], images)
    conversation = [*read_messages(messages, lmm.config.image), Message("assistant", (TextPart("", said),))]
    read = lmm.prompt(conversation, add_generation_prompt=False)
    assert collapsed(read)[: len(ids) + len(said)] == [*ids, *said]
    assert relative(lmm.logits(read)[0, : len(expected)], expected) <= 1e-5


def test_greedy_answers(models):
    """The reference runs the whole sequence again for every token."""
    model, folder, lmm = models
    messages = [ask("Read.", picture(64, 48, 7))]
    ids, images = reference.prompt(folder / "tokenizer.json", messages)
    expected = []
    while len(expected) < 12 and not set(expected) & set(lmm.config.tokens.stop):
        expected.append(int(model([*ids, *expected], images)[-1].argmax()))
    assert len(lmm.prepare(messages)) + 12 <= lmm.config.text.rope.scaling.original_positions
    assert [p.token for p in rave_mlx.stream(lmm, messages, max_tokens=12)] == expected


def test_the_golden_file_is_up_to_date(models):
    model, folder, _ = models
    shapes, logits = golden(CASE)
    assert shapes == {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert set(logits) == set(CASE.conversations)
    for name, stored in logits.items():
        expected = model(*reference.prompt(folder / "tokenizer.json", CONVERSATIONS[name]))
        assert relative(stored, expected[kept_positions(len(expected))]) <= 1e-5, name


def test_an_export_has_the_released_names(models, tmp_path):
    """All but SigLIP's pooling, which nothing passes through; rows of the vocabulary that no token has are zero."""
    model, folder, lmm = models
    convert(folder, tmp_path / "rave")
    export(tmp_path / "rave", tmp_path / "again")
    tensors = load_file(tmp_path / "again" / "model.safetensors")
    expected = {n: p.detach().numpy() for n, p in model.named_parameters() if not n.startswith("vision_encoder.head.")}
    assert set(tensors) == set(expected)
    for name, tensor in expected.items():
        rows = 278 if name in ("lang_model.model.embed_tokens.weight", "lang_model.lm_head.weight",
                               "lang_model.lm_head.bias") else len(tensor)  # fmt: skip
        assert np.array_equal(tensors[name][:rows], tensor[:rows]), name
        assert tensors[name].shape == tensor.shape
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == CASE.config
    again = rave_mlx.load(tmp_path / "again")
    prompt = lmm.prepare(CONVERSATIONS["one image"])
    assert (np.array(again.logits(prompt)) == np.array(lmm.logits(prompt))).all()


def test_a_head_without_a_bias(models, tmp_path):
    model, _, lmm = models
    tensors = {n: p.detach().numpy() for n, p in model.named_parameters()}
    biases = [tensors.pop(f"lang_model.lm_head.{name}") for name in ("bias", "additional_fc.bias")]
    other = rave_mlx.load(reference.write(tmp_path / "hf", model, tensors=tensors))
    prompt = lmm.prepare(CONVERSATIONS["text"])
    added = np.concatenate([biases[0][:278], biases[1]])
    assert relative(np.array(other.logits(prompt)) + added, lmm.logits(prompt)) <= 1e-6


# The prompt with a real tokenizer of Phi-3's kind


@pytest.fixture(scope="module")
def phi(tokenizer_folder, tmp_path_factory):
    """Llama 2's tokenizer, on which Phi-3's stands, with its added tokens and those of AKI."""
    data = json.loads((tokenizer_folder("llama2") / "tokenizer.json").read_text())
    swallowing = ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
    names = ["<|endoftext|>", "<|assistant|>", *(f"<|placeholder{i}|>" for i in range(1, 5)), "<|system|>", "<|end|>",
             "<|placeholder5|>", "<|placeholder6|>", "<|user|>", "<pad>", "<image>", "<|endofchunk|>"]  # fmt: skip
    for index, name in enumerate(names, 32000):
        token = {"id": index, "content": name, "single_word": False, "lstrip": False, "normalized": False}
        data["added_tokens"].append(token | {"special": True, "rstrip": name in swallowing})
    file = tmp_path_factory.mktemp("phi") / "tokenizer.json"
    file.write_text(json.dumps(data))
    return file


@pytest.mark.parametrize("question", ["What is the total?", "  Two  spaces, and\na line ", "<|assistant|>!", "数は？"])
def test_prompts_of_the_authors_evaluation(models, phi, question):
    """Our ids are those of transformers' tokenizer, but for control tokens that a person types."""
    _, _, lmm = models
    tokens = TokenConfig(stop=(32007,), image=32012, bos=1, answer=32001)
    messages = read_messages([ask(question, picture())], lmm.config.image)
    template = ChatTemplate(TEMPLATE, {"bos_token": "<s>"})
    prompt = build_prompt(messages, Tokenizer(phi), template, tokens=tokens, mask="mutual", merge_size=None)
    core = transformers.PreTrainedTokenizerFast(tokenizer_file=str(phi))
    text = f"<s>{reference.SYSTEM}<|user|>\n<image>\n{question}<|end|>\n<|assistant|>\n"
    expected = core(text, add_special_tokens=False)["input_ids"]
    if "<|assistant|>" in question:
        assert (prompt.ids == 32001).sum() == 1
        assert expected.count(32001) == 2
        return
    assert collapsed(prompt) == expected
    assert expected[-1] == 32001, "the line break after <|assistant|> is swallowed"
    start = int(np.flatnonzero(prompt.token_map.visual)[0])
    assert prompt.token_map.lookahead[:, start].tolist() == [start + 9, len(prompt)]
