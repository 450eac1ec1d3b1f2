"""Gradients of pair gates beside LoRA against torch: transformers' models, the gate written into their attention."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from families import cases
from support import relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from transformers import AttentionInterface, AttentionMaskInterface  # noqa: E402
from transformers.masking_utils import eager_mask  # noqa: E402

import rave_mlx  # noqa: E402
from parity import golden as reference  # noqa: E402
from parity.test_train_gradients import PARTS, labels, our_gradients, rows  # noqa: E402
from rave_mlx.checkpoint import adapters  # noqa: E402
from rave_mlx.checkpoint.adapters import AdapterConfig  # noqa: E402
from rave_mlx.config import GateConfig  # noqa: E402
from rave_mlx.convert import convert  # noqa: E402
from rave_mlx.convert.adapters import export_peft  # noqa: E402
from rave_mlx.train.batch import collate  # noqa: E402

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "qwen3_5", "gemma3", "llava", "idefics3", "mistral3", "paddleocr_vl",
            "gemma4-vision", "deepseek_ocr2")  # fmt: skip
LIMIT = 4.0


class TorchGate(torch.nn.Module):
    """b = m phi(x), x = (U q)(W k)/sqrt(r) + a.q + c.k + beta on RMS-normalised heads before RoPE."""

    def __init__(self, values, squash):
        super().__init__()
        self.squash = squash
        for name, value in values.items():
            setattr(self, name, torch.nn.Parameter(torch.from_numpy(np.array(value))))

    def forward(self, q, k, visual):
        """q (B, H, L, d), k (B, G, L, d), visual (B, L); the bias (B, H, L, L)."""
        q, k = (x / x.pow(2).mean(-1, keepdim=True).add(1e-6).sqrt() for x in (q.float(), k.float()))
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        heads = torch.arange(q.shape[1]) // (q.shape[1] // self.W.shape[0])
        u = torch.einsum("bhld,hrd->bhlr", q, self.U) / self.U.shape[1] ** 0.5
        x = u @ torch.einsum("bhld,hrd->bhrl", k, self.W[heads])
        x = x + torch.einsum("bhld,hd->bhl", q, self.a)[..., None] + self.beta[:, None, None]
        x = x + torch.einsum("bhld,hd->bhl", k, self.c[heads])[:, :, None]
        if self.squash == "tanh":
            x = LIMIT * torch.tanh(x / LIMIT)
        elif self.squash == "suppress":
            x = torch.nn.functional.logsigmoid(x) + np.log(2)
        elif self.squash == "boost":
            x = torch.nn.functional.softplus(x) - np.log(2)
        return x * visual[:, None, None].float()


def gated_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **ignored):
    """Attention written out, with the gate's bias where the module has one."""
    groups = query.shape[1] // key.shape[1]
    keys, values = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ keys.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if hasattr(module, "pair_gate"):
        scores = scores + module.pair_gate(module.before["q"], module.before["k"], module.visual)
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, :, : keys.shape[2]]
    weights = scores.float().softmax(-1).to(query.dtype)
    return (weights @ values).transpose(1, 2).contiguous(), weights


AttentionInterface.register("gated", gated_attention)
AttentionMaskInterface.register("gated", eager_mask)


def put_gates(model, gates, visual, squash):
    """Gates on the decoder's attention; its queries and keys before RoPE are kept by hooks."""
    found = [(name, m) for name, m in model.named_modules() if name.endswith("self_attn") and hasattr(m, "q_proj")]
    layers = [m for name, m in found if "vision" not in name and "visual" not in name]
    assert len(layers) == len(gates)
    for layer, values in zip(layers, gates, strict=True):
        layer.pair_gate, layer.visual, layer.before = TorchGate(values, squash), visual, {}
        for side in "qk":
            last = getattr(layer, f"{side}_norm", None) or getattr(layer, f"{side}_proj")
            last.register_forward_hook(lambda m, i, out, layer=layer, side=side: keep(layer, side, out))
    return layers


def keep(layer, side, out):
    """Queries or keys as (B, heads, L, d)."""
    dim, length = layer.head_dim, layer.visual.shape[1]
    if out.dim() == 3:
        out = out.view(*out.shape[:2], -1, dim)
    layer.before[side] = out.transpose(1, 2) if out.shape[1] == length else out


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_gates_and_lora_are_torchs(name, tmp_path):
    squash = ("tanh", "identity", "suppress", "boost")[FAMILIES.index(name) % 4]
    case = cases()[name]
    model = reference.hf_model(case)
    base = reference.checkpoint(case, model, tmp_path / "hf")
    convert(base, tmp_path / "gated", gate=GateConfig(kv_groups=1.0, squash=squash))
    lmm = rave_mlx.load(tmp_path / "gated")
    lmm.freeze()
    layer = min(int(n.split(".")[2]) for n in lmm.named_weights() if ".gate." in n)
    config = AdapterConfig(rank=2, scale=1.5, modules=(f"decoder.layers.{layer}.attention.q_proj",))
    adapters.attach(lmm, config)
    rng = np.random.default_rng(3)
    weights = lmm.named_weights()
    chosen = [n for n in weights if ".gate." in n or n.endswith(("lora_a", "lora_b"))]
    lmm.load_weights(
        [(n, mx.array(rng.normal(0, 0.3, weights[n].shape).astype(np.float32))) for n in chosen], strict=False
    )
    weights = lmm.named_weights()
    by_layer: dict[int, dict[str, mx.array]] = {}
    for n in (n for n in chosen if ".gate." in n):
        by_layer.setdefault(int(n.split(".")[2]), {})[n.rpartition(".")[2]] = weights[n]
    lmm.unfreeze(keys=["lora_a", "lora_b", "U", "W", "a", "c", "beta"], strict=False)
    examples = rows(case, lmm)[:2]
    batch = collate(examples)
    adapters.save(lmm, config, tmp_path / "ours")
    export_peft(tmp_path / "ours", base, tmp_path / "peft")

    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "peft", is_trainable=True)
    length = max(map(len, examples))
    visual = [np.pad(e.prompt.token_map.visual, (length - len(e.prompt), 0)) for e in examples]
    layers = put_gates(theirs, list(by_layer.values()), torch.from_numpy(np.stack(visual)), squash)
    theirs.base_model.model.set_attn_implementation("gated")
    inputs = reference.batch(case, [e.prompt for e in examples])
    loss = theirs(**inputs, labels=labels(examples)).loss * batch.count
    loss.backward()

    value, ours = our_gradients(lmm, batch)
    assert abs(value / loss.item() - 1) < 1e-5
    reached = 0
    for index, torch_layer in zip(by_layer, layers, strict=True):
        for part, parameter in torch_layer.pair_gate.named_parameters():
            grad, found = parameter.grad.numpy(), ours[f"decoder.layers.{index}.attention.gate.{part}"]
            if not np.abs(grad).max():  # A window in which no answer sees an image.
                assert not np.abs(found).max(), (index, part)
                continue
            assert relative(found, grad) <= 1e-4, (index, part)
            reached += 1
    assert reached >= 5
    for path, parameter in theirs.named_parameters():
        if parameter.grad is not None and "lora_" in path:
            part = next(ours_ for ours_, t in PARTS.items() if path.endswith(t))
            assert relative(ours[f"{config.modules[0]}.{part}"], parameter.grad.numpy().T) <= 1e-4, path
