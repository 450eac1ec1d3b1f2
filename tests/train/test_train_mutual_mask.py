"""Training with the mutual mask on a causal model, and everything that has to remember it afterwards.

The rule itself, token by token, is held in `test_mutual_mask` and `test_train_causality`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from command import rave
from families import CONVERSATIONS, aki, cases, write_checkpoint
from families.aki import write_released
from support import ask, picture, relative, tiny_model
from test_train_resume import stopped
from training import LORA, config, history, losses, result, train_cli, write_data, write_model

import rave_mlx
from rave_mlx.attention import attend
from rave_mlx.attention.masks import decoder_mask
from rave_mlx.checkpoint import adapters, directory
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.convert.adapters import export_peft, import_peft
from rave_mlx.convert.exporting import export
from rave_mlx.convert.fusing import fuse
from rave_mlx.errors import ConfigError, ModelError, PromptError, UsageError
from rave_mlx.generation.decode import step
from rave_mlx.generation.prefill import prefill
from rave_mlx.inputs.prompt.chat_template import ChatTemplate
from rave_mlx.inputs.prompt.message import Role
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.policies.runtime import attach
from rave_mlx.policies.sink_tokens import _Recorder
from rave_mlx.train.batch import collate
from rave_mlx.train.dataset import open_dataset
from rave_mlx.train.example import make_example
from rave_mlx.train.features import FeatureCache
from rave_mlx.train.forward import hidden_states
from rave_mlx.train.mutual_mask import answer_token, use_mutual_mask
from rave_mlx.train.run import run

START = 1
"""The built-in template's <|im_start|>."""
CASES = cases() | {"aki": aki.CASE}
ANSWER = {"role": "assistant", "content": "It is so."}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A checkpoint with the configuration that exports need."""
    return write_checkpoint(CASES["qwen2_5_vl"], tmp_path_factory.mktemp("base") / "hf")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, base, data):
    """An adapter that was trained on it with the mask."""
    out = tmp_path_factory.mktemp("run") / "out"
    run(rave_mlx.load(base), data, out, config(steps=4, mask="mutual", learning_rate=3e-2))
    return out


# The mask


def with_mutual_mask(model):
    use_mutual_mask(model)
    return model


def example_with_image(case, lmm):
    """A family's last conversation that shows something, with an answer."""
    rows = (read_messages([*CONVERSATIONS[name], ANSWER], lmm.config.image) for name in reversed(case.conversations))
    return next(e for e in (make_example(lmm, row, "") for row in rows) if e.prompt.images)


@pytest.mark.parametrize("name", CASES)
def test_in_every_family_images_see_the_question_and_no_answer(name, tmp_path):
    case = CASES[name]
    write = write_released if name == "aki" else partial(write_checkpoint, case)
    lmm = rave_mlx.load(write(tmp_path / "hf"))
    if lmm.config.vision is None:
        with pytest.raises(UsageError, match="reads text only and has no images that could see a question"):
            use_mutual_mask(lmm)
        return
    if lmm.config.mask in ("image", "windows", "whole"):
        said = f"images of this {lmm.config.family} model see themselves and not the question"
        with pytest.raises(UsageError, match=said):
            use_mutual_mask(lmm)
        return
    causal = example_with_image(case, lmm)
    use_mutual_mask(lmm)
    mutual = example_with_image(case, lmm)
    assert (causal.prompt.ids == mutual.prompt.ids).all() and (causal.loss_mask == mutual.loss_mask).all()
    tokens = mutual.prompt.token_map
    last = int(np.flatnonzero(tokens.visual)[-1])
    start, stop = (int(x) for x in tokens.lookahead[:, last])
    words = np.flatnonzero((tokens.role == Role.USER) & (np.arange(len(mutual)) > last))
    answer = int(np.flatnonzero(mutual.loss_mask & (np.arange(len(mutual)) > last))[0])
    assert start == last + 1 and stop <= answer
    assert ((words >= start) & (words < stop) | (words > answer)).all()
    batch = collate([mutual])
    features = FeatureCache(lmm).read(batch.images)

    def change(at):
        """How much every state changes with a token."""
        ids = batch.ids.copy()
        ids[0, at] = (ids[0, at] + 101) % 200 + 20
        both = [np.array(hidden_states(lmm, x, features)) for x in (batch, replace(batch, ids=ids))]
        return np.abs(both[1] - both[0])[0].max(axis=-1)

    moved = change(answer)
    assert moved[:answer].max() == 0 and moved[answer:].max() > 1e-4
    if words.size and words[0] < answer:
        assert (change(int(words[0]))[tokens.image == tokens.image[last]] > 0).all()


def test_the_question_changes_an_image_from_the_first_layers_output_on():
    lmm = with_mutual_mask(tiny_model())

    def inputs(word):
        prompt = lmm.prepare([ask(f"Where is the {word}?", picture(40, 24))])
        recorder = _Recorder()
        cache = lmm.make_cache(hooks=attach(lmm, (recorder,)))
        lmm.read(prompt, cache, len(prompt))
        own = prompt.token_map.visual
        return [np.array(cache.hooks.state(recorder, i)["input"])[0, own] for i in range(3)]

    changes = [np.abs(a - b).max() for a, b in zip(inputs("sum"), inputs("tax"), strict=True)]
    assert changes[0] == 0 and changes[1] > 1e-3 and changes[2] > 1e-3


def test_answers_begin_with_the_templates_last_control_token():
    lmm = tiny_model()
    assert answer_token(lmm) == START
    use_mutual_mask(lmm)
    assert (lmm.config.mask, lmm.config.tokens.answer) == ("mutual", START)
    lmm.config = replace(lmm.config, tokens=replace(lmm.config.tokens, answer=7))
    use_mutual_mask(lmm)
    assert lmm.config.tokens.answer == 7, "a model's own mask stays"


def test_reasoning_that_only_some_prompts_open_is_not_taken_for_it():
    """A generation prompt that goes on with tokens which an answered conversation lacks (as <think> in Qwen3)."""
    lmm = tiny_model()
    source = lmm.template.source
    assert source.count("<|im_start|>assistant\n") == 1
    more = source.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<|im_end|>")
    lmm.template = ChatTemplate(more, {"eos_token": "<|im_end|>"})
    assert answer_token(lmm) == START


def test_a_template_without_such_a_token_is_refused():
    lmm = tiny_model()
    words = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    lmm.template = ChatTemplate(words, {"eos_token": "<|im_end|>"})
    with pytest.raises(UsageError, match="chat template begins an answer with no token of its own"):
        use_mutual_mask(lmm)


def test_a_row_in_which_an_image_would_see_an_answer_is_refused():
    """As with a template that writes the token elsewhere than the prompt that asks does."""
    lmm = tiny_model()
    (tilde,) = lmm.tokenizer.encode("~")[0]
    lmm.config = replace(lmm.config, mask="mutual", tokens=replace(lmm.config.tokens, answer=tilde))
    row = [ask("Who?", picture(24, 16)), {"role": "assistant", "content": "Ann"}]
    make_example(lmm, read_messages(row, lmm.config.image), "")
    with pytest.raises(PromptError, match="an image would see an answer"):
        make_example(lmm, read_messages([*row, {"role": "user", "content": "~"}], lmm.config.image), "")


def attention_peak(length):
    """Peak memory of attention and its gradient under the mask, above what it is given."""
    rng = np.random.default_rng(0)
    q, k, v = (mx.array(rng.normal(size=(1, 8, length, 16)).astype(np.float32)) for _ in range(3))
    own = np.zeros((1, 2, length), np.int32)
    own[0, :, 10 : length // 2] = [[length // 2], [length - 40]]
    mask = decoder_mask(length, length, lookahead=mx.array(own))
    mx.eval(q, k, v, mask)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    loss = lambda q, k, v: mx.sum(mx.square(attend(q, k, v, scale=0.25, mask=mask, path="train")))
    mx.eval(mx.value_and_grad(loss, (0, 1, 2))(q, k, v))
    return mx.get_peak_memory() - before


def test_memory_of_attention_grows_with_the_length_not_with_its_square():
    peaks = [attention_peak(length) for length in (640, 1280)]
    assert peaks[1] < 2.6 * peaks[0], peaks


# A run


def test_the_first_loss_is_that_of_the_mutual_model(tmp_path, data):
    found = {}
    for mask in (None, "mutual"):
        run(tiny_model(), data, tmp_path / str(mask), config(steps=1, batch_size=9, mask=mask))
        lmm = with_mutual_mask(tiny_model()) if mask else tiny_model()
        total = count = 0.0
        for row in open_dataset(data, lmm):
            scores = np.array(lmm.logits(row.prompt), np.float64)[0]
            scores -= scores.max(-1, keepdims=True)
            scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
            where = np.flatnonzero(row.loss_mask)
            total -= scores[where - 1, row.prompt.ids[0, where]].sum()
            count += len(where)
        found[mask] = losses(tmp_path / str(mask))[0]
        assert found[mask] == pytest.approx(total / count, rel=1e-5)
    assert abs(found["mutual"] / found[None] - 1) > 1e-3


def test_losses_go_down(tmp_path, data):
    run(tiny_model(), data, tmp_path, config(steps=25, batch_size=9, mask="mutual"))
    found = losses(tmp_path)
    assert sum(found[-3:]) < 0.7 * sum(found[:3])


def test_resumes_to_the_bit(tmp_path, data):
    settings = config(steps=5, accumulate=2, adapter=replace(LORA, dropout=0.2), mask="mutual", save_every=9)
    run(tiny_model(), data, tmp_path / "whole", settings)
    stopped(data, tmp_path / "parts", settings, 3)
    with pytest.raises(ConfigError, match='began with mask = "mutual", now it is null'):
        run(tiny_model(), data, tmp_path / "parts", replace(settings, mask=None), resume=True)
    run(tiny_model(), data, tmp_path / "parts", settings, resume=True)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert result(tmp_path / "parts") == result(tmp_path / "whole")


# What remembers it


def logits(model, **options):
    lmm = rave_mlx.load(model, **options)
    return np.array(lmm.logits(lmm.prepare(CONVERSATIONS["two images, two turns"])))


def without_mask(adapter, out):
    """The same adapter, its mask forgotten."""
    config = adapters.read_config(adapter)
    out.mkdir()
    adapters.write(out, replace(config, mask=None, answer=None), adapters.read_weights(adapter))
    return out


def test_an_opened_adapter_brings_its_mask(base, trained, tmp_path):
    for folder in (trained, trained / "best"):
        lmm = rave_mlx.load(base, adapter=folder)
        assert lmm.config.mask == "mutual" and lmm.config.tokens.answer == adapters.read_config(folder).answer
    assert rave_mlx.load(base).config.mask == "causal"
    forgotten = without_mask(trained, tmp_path / "causal")
    assert relative(logits(base, adapter=forgotten), logits(base, adapter=trained)) > 1e-3


def test_reading_an_answer_equals_writing_it(base, trained, data):
    """The exact training row against reading its question and going on token by token."""
    lmm = rave_mlx.load(base, adapter=trained)
    rows = open_dataset(data, lmm, split="valid")
    for index in range(len(rows)):
        example = rows[index]
        asked = lmm.prompt(rows.question(index)[0])
        start = len(asked)
        ids = example.prompt.ids[0]
        assert (ids[:start] == asked.ids[0]).all() and asked.token_map.lookahead.any()
        cache = lmm.make_cache()
        written = [prefill(lmm, asked, cache)]
        for offset, token in enumerate(ids[start:-1].tolist()):
            written.append(step(lmm, cache, mx.array([token]), asked.token_map.next_position + offset))
        read = lmm.decoder.logits(hidden_states(lmm, collate([example])))
        assert relative(mx.stack(written, axis=1)[0], read[0, start - 1 : -1]) <= 1e-5


@pytest.mark.parametrize("form", ["checkpoint", "rave directory"])
def test_fused_equals_unfused(base, trained, tmp_path, form):
    model = base if form == "checkpoint" else rave_mlx.convert.convert(base, tmp_path / "rave")
    fuse(model, trained, tmp_path / "fused")
    assert directory.read_config(tmp_path / "fused").mask == "mutual"
    assert relative(logits(tmp_path / "fused"), logits(model, adapter=trained)) <= 1e-5


def test_transformers_cannot_have_it(base, trained, tmp_path):
    fuse(base, trained, tmp_path / "fused")
    with pytest.raises(ModelError, match="trained with the mutual mask, which transformers' qwen2_5_vl does not have"):
        export(tmp_path / "fused", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_peft_says_so_and_brings_it_back(base, trained, tmp_path, capsys):
    export_peft(trained, base, tmp_path / "peft")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "peft runs it with a causal one and reads worse" in said
    import_peft(tmp_path / "peft", base, tmp_path / "back")
    assert adapters.read_config(tmp_path / "back").answer == adapters.read_config(trained).answer
    assert relative(logits(base, adapter=tmp_path / "back"), logits(base, adapter=trained)) <= 1e-6
    (tmp_path / "peft" / "mutual_mask.json").write_text('{"answer": "<|im_start|>"}')
    with pytest.raises(ConfigError, match="answer must be a token id, found '<|im_start|>'"):
        import_peft(tmp_path / "peft", base, tmp_path / "again")
    notes = []
    export_peft(without_mask(trained, tmp_path / "causal"), base, tmp_path / "plain", note=notes.append)
    assert notes == [] and not (tmp_path / "plain" / "mutual_mask.json").exists()


def test_a_model_that_cannot_have_it_is_refused(base, trained, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    adapters.write(broken, replace(adapters.read_config(trained), answer=10**6), adapters.read_weights(trained))
    with pytest.raises(ModelError, match="opens the mask of images up to token 1000000, which this model does not"):
        rave_mlx.load(base, adapter=broken)
    with pytest.raises(ConfigError, match="go together"):
        AdapterConfig(rank=1, scale=1.0, mask="mutual")


def test_from_the_command_line(tmp_path, data):
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    options = ("--data", data, "--out", out, "--model", model, "--mask", "mutual")
    assert "9 examples" in train_cli(*options, "--check-data").stdout
    train_cli(*options, "--steps", 2, "--rank", 2)
    found = json.loads((out / "adapter_config.json").read_text())
    assert (found["mask"], found["answer"]) == ("mutual", START)
    for policy in ((), ("--attention", "mma")):
        asked = ("--image", data / "valid0.png", "--prompt", "Total?", "--max-tokens", 3)
        said = rave("chat", "--model", model, "--adapter", out, *policy, *asked)
        assert said.returncode == 0, said.stderr
