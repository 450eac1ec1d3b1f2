"""Configurations: exact round trips; whatever is unknown, missing, mistyped or contradictory is named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support import tiny_config

from rave_mlx.config import GateConfig, LMMConfig, QuantizationConfig
from rave_mlx.errors import ConfigError


def full():
    layers = {"decoder.head": QuantizationConfig(bits=8, group_size=32)}
    quantization = QuantizationConfig(bits=4, group_size=64, layers=layers)
    return replace(tiny_config(GateConfig(kv_groups=(1,), layers=(0, 2))), quantization=quantization)


def test_json_round_trip():
    config = full()
    assert LMMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def change(path, value):
    data = json.loads(json.dumps(full().to_dict()))
    *parents, last = path.split(".")
    part = data
    for name in parents:
        part = part[name]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("text.rope.thetta", 1.0, r"config\.text\.rope: unknown key thetta"),
        ("surprise", 1, r"config: unknown key surprise"),
        ("text.vocab_size", ..., r"config\.text: missing key vocab_size"),
        ("text.vocab_size", "many", r"config\.text\.vocab_size: expected int, found 'many'"),
        ("text.vocab_size", True, r"vocab_size: expected int, found True"),
        ("text.vocab_size", 0, r"vocab_size must be at least 1"),
        ("text.num_heads", 3, r"num_heads 3 is not a multiple of num_kv_heads 2"),
        ("text.head_dim", 15, r"head_dim 15 is odd"),
        ("text.rope.sections", [1, 2, 3], r"must add up to head_dim / 2 = 8"),
        ("text.rope.sections", "abc", r"sections: expected a list"),
        ("text", None, r"config\.text: expected an object, found NoneType"),
        ("tokens.stop", [1, "x"], r"stop\[1\]: expected int"),
        ("vision.window_size", 33, r"window_size 33 is not a multiple"),
        ("vision.num_heads", 3, r"hidden_size 32 must split over 3 heads"),
        ("vision", None, r"missing: vision"),
        ("image.patch_size", 8, r"vision.patch_size and image.patch_size differ"),
        ("image.resample", "nearest", r"'nearest' is not one of"),
        ("connector.output_size", 64, r"output_size 64 differs from text.hidden_size 48"),
        ("gate.kv_groups", [5], r"kv_groups \[5\]: the model has KV groups 0 to 1"),
        ("gate.layers", [9], r"layers \[9\]: the model has layers 0 to 2"),
        ("gate.squash", "relu", r"'relu' is not one of"),
        ("format", 99, r"format is 99, this version of rave-mlx reads 1"),
    ],
)
def test_bad_values_are_named(path, value, error):
    with pytest.raises(ConfigError, match=error):
        LMMConfig.from_dict(change(path, value))


def test_gate_groups():
    assert GateConfig(kv_groups=0.5).groups(4) == (0, 1)
    assert GateConfig(kv_groups=1.0).groups(2) == (0, 1)
    assert GateConfig(kv_groups=0.01).groups(8) == (0,)
    assert GateConfig(kv_groups=(3, 1)).groups(4) == (3, 1)
    assert GateConfig(rank=14).width == 16
