"""The training loss against transformers' with labels, and gradients of LoRA and DoRA against torch and peft."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from families import CONVERSATIONS, cases
from mlx.utils import tree_flatten
from support import relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import rave_mlx  # noqa: E402
from parity import golden as reference  # noqa: E402
from rave_mlx import adapters  # noqa: E402
from rave_mlx.adapters import AdapterConfig  # noqa: E402
from rave_mlx.convert.adapters import export_peft  # noqa: E402
from rave_mlx.messages import read_messages  # noqa: E402
from rave_mlx.train.batch import collate  # noqa: E402
from rave_mlx.train.example import make_example  # noqa: E402
from rave_mlx.train.loss import loss  # noqa: E402

CASES = {name: case for name, case in cases().items() if "-" not in name}
"""One of each family."""
CASE = CASES["qwen2_5_vl"]
MODULES = (
    "decoder.layers.0.attention.q_proj",
    "decoder.layers.1.attention.v_proj",
    "decoder.layers.2.attention.o_proj",
    "decoder.layers.1.mlp.down_proj",
)
ANSWER = {"role": "assistant", "content": "They differ a little."}


def rows(case, lmm):
    """The first and the last conversation of a case, answered."""
    chosen = {case.conversations[0], case.conversations[-1], *case.conversations[1:4]}
    conversations = [[*CONVERSATIONS[name], ANSWER] for name in sorted(chosen)]
    return [make_example(lmm, read_messages(c, lmm.config.image), "") for c in conversations]


def labels(examples):
    """Token ids where they are trained on and -100 elsewhere, padded on the left as `golden.batch` does."""
    length = max(map(len, examples))
    marked = [np.where(e.trained, e.prompt.ids[0], -100) for e in examples]
    return torch.from_numpy(np.stack([np.pad(m, (length - len(m), 0), constant_values=-100) for m in marked])).long()


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_transformers_with_labels(name, tmp_path):
    case = CASES[name]
    model = reference.hf_model(case)
    lmm = rave_mlx.load(reference.checkpoint(case, model, tmp_path / "hf"))
    examples = rows(case, lmm)
    for group in (examples, examples[:1]):
        inputs = reference.batch(case, [e.prompt for e in group])
        with torch.no_grad():
            expected = model(**inputs, labels=labels(group)).loss.item()
        total, count = loss(lmm, collate(group))
        assert count == sum(int(e.trained.sum()) for e in group)
        assert abs(float(total) / count / expected - 1) < 1e-5


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_gradients_are_pefts(kind, tmp_path):
    model = reference.hf_model(CASE)
    base = reference.checkpoint(CASE, model, tmp_path / "hf")
    lmm = rave_mlx.load(base)
    lmm.freeze()
    config = AdapterConfig(rank=4, scale=1.5, modules=MODULES, kind=kind)
    adapters.attach(lmm, config)
    rng = np.random.default_rng(7)
    weights = lmm.named_weights()
    names = [n for n in adapters.adapter_weights(lmm, config) if n.endswith(("lora_a", "lora_b"))]
    drawn = [(n, mx.array(rng.normal(0, 0.2, weights[n].shape).astype(np.float32))) for n in names]
    lmm.load_weights(drawn, strict=False)
    lmm.unfreeze(keys=["lora_a", "lora_b", "m"], strict=False)
    examples = rows(CASE, lmm)
    batch = collate(examples)

    adapters.save(lmm, config, tmp_path / "ours")
    export_peft(tmp_path / "ours", base, tmp_path / "peft")
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "peft", is_trainable=True)
    theirs.train()
    found = theirs(**reference.batch(CASE, [e.prompt for e in examples]), labels=labels(examples))
    (found.loss * batch.count).backward()
    expected = {n: p.grad.numpy() for n, p in theirs.named_parameters() if p.grad is not None}

    value, grads = nn.value_and_grad(lmm, lambda m: loss(m, batch)[0])(lmm)
    assert abs(float(value) / (found.loss.item() * batch.count) - 1) < 1e-5
    ours = dict(tree_flatten(grads))
    assert len(ours) == len(expected) == len(MODULES) * (2 if kind == "lora" else 3)
    parts = {
        "lora_a": "lora_A.default.weight",
        "lora_b": "lora_B.default.weight",
        "m": "lora_magnitude_vector.default.weight",
    }
    for name, grad in ours.items():
        module, _, part = name.removeprefix("decoder.").rpartition(".")
        path = f"base_model.model.model.language_model.{module.replace('attention', 'self_attn')}.{parts[part]}"
        assert np.abs(expected[path]).max() > 1e-4, name
        assert relative(np.array(grad).T, expected[path]) <= 1e-4, name
