"""The fingerprint of a base model: the same however the model was opened, another for other weights."""

from __future__ import annotations

import json

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_unflatten
from support import tiny_model

import rave_mlx
from rave_mlx.checkpoint import adapters
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.checkpoint.fingerprint import adapter_fingerprint, fingerprint
from rave_mlx.config import GateConfig
from rave_mlx.errors import ConfigError, ModelError

Q_PROJ = ("decoder.layers.1.attention.q_proj",)


def test_the_type_of_the_weights_does_not_matter():
    assert fingerprint(rave_mlx.load()) == fingerprint(rave_mlx.load(dtype="bfloat16"))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_and_gates_do_not_matter(kind):
    lmm = tiny_model(GateConfig(rank=3))
    adapters.attach(lmm, AdapterConfig(rank=2, scale=1.0, modules=Q_PROJ, kind=kind))
    assert fingerprint(lmm) == fingerprint(tiny_model())


def test_packed_and_expanded_weights_are_the_same():
    lmm = tiny_model()
    nn.quantize(lmm, 32, 4, class_predicate=lambda name, _: name.endswith("o_proj"))
    packed = fingerprint(lmm)
    for name, module in lmm.named_modules():
        if isinstance(module, nn.QuantizedLinear):
            plain = nn.Linear(1, 1, bias=False)
            plain.weight = mx.dequantize(module.weight, module.scales, module.biases, 32, 4, dtype=mx.float32)
            lmm.update_modules(tree_unflatten([(name, plain)]))
    assert fingerprint(lmm) == packed != fingerprint(tiny_model())


def test_other_weights_or_shapes_are_another_model():
    lmm = tiny_model()
    before = fingerprint(lmm)
    norm = lmm.connector.norm.weight
    lmm.connector.norm.weight = norm + (mx.arange(norm.size) == 0) * 0.1
    assert len({before, fingerprint(lmm), fingerprint(tiny_model(seed=1)), fingerprint(tiny_model(num_layers=2))}) == 4


def test_an_adapter_of_another_base_is_refused(tmp_path):
    config = AdapterConfig(rank=2, scale=1.0, modules=Q_PROJ, base=fingerprint(tiny_model()))
    lmm = tiny_model()
    adapters.attach(lmm, config)
    adapters.save(lmm, config, tmp_path / "adapter")
    adapters.load_adapter(tiny_model(), tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"adapter: the adapter was trained on another base model \(fingerprint"):
        adapters.load_adapter(tiny_model(seed=1), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "base"}))
    adapters.load_adapter(tiny_model(seed=1), tmp_path / "adapter")


def test_a_part_that_was_trained_in_full_comes_back(tmp_path):
    lmm, config = tiny_model(seed=1), AdapterConfig(rank=2, scale=1.0, full=("connector",))
    adapters.save(lmm, config, tmp_path / "adapter")
    weights = adapters.read_weights(tmp_path / "adapter")
    assert weights and all(name.startswith("connector.") for name in weights)
    again = adapters.load_adapter(tiny_model(), tmp_path / "adapter").named_weights()
    trained, base = lmm.named_weights(), tiny_model().named_weights()
    for name, x in again.items():
        expected = trained if name.startswith("connector.") else base
        assert mx.array_equal(x, expected[name]), name


def test_a_replaced_decoder_cannot_be_adapted_as_well():
    with pytest.raises(ConfigError, match="replaced as a whole"):
        AdapterConfig(rank=2, scale=1.0, modules=Q_PROJ, full=("decoder",))


def test_adapters_are_known_by_what_they_hold(tmp_path):
    assert adapter_fingerprint(None) is None
    (tmp_path / "adapters.safetensors").write_bytes(b"weights")
    (tmp_path / "adapter_config.json").write_text("{}")
    first = adapter_fingerprint(tmp_path)
    (tmp_path / "notes.txt").write_text("not part of it")
    assert adapter_fingerprint(str(tmp_path)) == first
    (tmp_path / "adapters.safetensors").write_bytes(b"Weights")
    assert adapter_fingerprint(tmp_path) != first
