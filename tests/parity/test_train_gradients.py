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
from rave_mlx.checkpoint import adapters  # noqa: E402
from rave_mlx.checkpoint.adapters import AdapterConfig  # noqa: E402
from rave_mlx.convert.adapters import export_peft  # noqa: E402
from rave_mlx.inputs.prompt.parse_messages import read_messages  # noqa: E402
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
    found = [make_example(lmm, read_messages(c, lmm.config.image), "") for c in conversations]
    # transformers counts the images of HunyuanOCR through all rows of a batch, where a prompt's own are meant.
    return found[:1] if lmm.config.family == "hunyuan_vl" else found


def labels(examples):
    """Token ids where they are trained on and -100 elsewhere, padded on the left as `golden.batch` does."""
    length = max(map(len, examples))
    marked = [np.where(e.loss_mask, e.prompt.ids[0], -100) for e in examples]
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
        assert count == sum(int(e.loss_mask.sum()) for e in group)
        assert abs(float(total) / count / expected - 1) < 1e-5


PARTS = {
    "lora_a": "lora_A.default.weight",
    "lora_b": "lora_B.default.weight",
    "m": "lora_magnitude_vector.default.weight",
}


def adapted(base, kind, **options):
    """Our model with random updates, which alone train."""
    lmm = rave_mlx.load(base, **options)
    lmm.freeze()
    config = AdapterConfig(rank=4, scale=1.5, modules=MODULES, kind=kind)
    adapters.attach(lmm, config)
    rng = np.random.default_rng(7)
    weights = lmm.named_weights()
    names = [n for n in adapters.adapter_weights(lmm, config) if n.endswith(("lora_a", "lora_b"))]
    drawn = [(n, mx.array(rng.normal(0, 0.2, weights[n].shape).astype(np.float32))) for n in names]
    lmm.load_weights(drawn, strict=False)
    lmm.unfreeze(keys=["lora_a", "lora_b", "m"], strict=False)
    return lmm, config


def our_gradients(lmm, batch):
    """The summed loss and its gradients by canonical name."""
    value, grads = nn.value_and_grad(lmm, lambda m: loss(m, batch)[0])(lmm)
    return float(value), {n: np.array(g.astype(mx.float32)) for n, g in tree_flatten(grads)}


def their_gradients(case, model, adapter, examples, batch):
    """The same of torch and peft, by our names, factors turned round."""
    theirs = peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)
    theirs.train()
    inputs = reference.batch(case, [e.prompt for e in examples])
    dtype = next(p.dtype for n, p in theirs.named_parameters() if "lora" not in n)
    inputs = {n: x.to(dtype) if x.is_floating_point() else x for n, x in inputs.items()}
    found = theirs(**inputs, labels=labels(examples))
    (found.loss.float() * batch.count).backward()
    named = {}
    for path, p in theirs.named_parameters():
        if p.grad is None:
            continue
        stem = path.removeprefix("base_model.model.model.language_model.").replace("self_attn", "attention")
        ours, part = next((o, t) for o, t in PARTS.items() if stem.endswith(t))
        named[f"decoder.{stem.removesuffix(part)}{ours}"] = p.grad.float().numpy().T
    theirs.unload()
    return found.loss.item() * batch.count, named


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize(
    "name",
    [
        "qwen2_5_vl",
        "paddleocr_vl",
        "glm_ocr",
        "glm4v",
        "hunyuan_vl",
        "mistral3",
        "gemma3",
        "got_ocr2",
        "gemma4",
        "deepseek_ocr2",
    ],
)
def test_gradients_are_pefts(name, kind, tmp_path):
    case = CASES[name]
    model = reference.hf_model(case)
    base = reference.checkpoint(case, model, tmp_path / "hf")
    lmm, config = adapted(base, kind)
    examples = rows(case, lmm)
    batch = collate(examples)
    adapters.save(lmm, config, tmp_path / "ours")
    export_peft(tmp_path / "ours", base, tmp_path / "peft")
    right, expected = their_gradients(case, model, tmp_path / "peft", examples, batch)
    value, ours = our_gradients(lmm, batch)
    assert abs(value / right - 1) < 1e-5
    assert ours.keys() == expected.keys() and len(ours) == len(MODULES) * (2 if kind == "lora" else 3)
    for name, grad in ours.items():
        assert np.abs(expected[name]).max() > 1e-4, name
        assert relative(grad, expected[name]) <= 1e-4, name


def test_bfloat16_costs_no_more_than_in_torch(tmp_path):
    """Against float32 with the same, rounded weights: ours in bfloat16, and torch with peft in bfloat16."""
    rounded = reference.hf_model(CASE).to(torch.bfloat16).to(torch.float32)
    base = reference.checkpoint(CASE, rounded, tmp_path / "hf")
    lmm, config = adapted(base, "lora")
    examples = rows(CASE, lmm)
    batch = collate(examples)
    adapters.save(lmm, config, tmp_path / "ours")
    export_peft(tmp_path / "ours", base, tmp_path / "peft")
    right, expected = our_gradients(lmm, batch)
    half, _ = adapted(base, "lora", dtype="bfloat16")
    assert half.decoder.norm.weight.dtype == mx.bfloat16
    losses, errors = {}, {}
    for name, (value, found) in {
        "ours": our_gradients(half, batch),
        "torch": their_gradients(CASE, rounded.to(torch.bfloat16), tmp_path / "peft", examples, batch),
    }.items():
        assert found.keys() == expected.keys()
        losses[name] = abs(value / right - 1)
        errors[name] = relative(*(np.concatenate([g[n].ravel() for n in expected]) for g in (found, expected)))
    assert losses["ours"] < 0.01 and errors["ours"] < 0.1, (losses, errors)
    assert errors["ours"] <= 1.3 * errors["torch"], errors
