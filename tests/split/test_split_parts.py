"""Which parts of a model several processes hold, and how they are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from families import cases, write_checkpoint
from mlx.utils import tree_flatten
from processes import written
from support import relative, tiny_config, tiny_model

from rave_mlx.backend.distributed import World
from rave_mlx.chat.session import Session
from rave_mlx.checkpoint.safetensors_part import Place, read_part
from rave_mlx.checkpoint.safetensors_reader import open_files
from rave_mlx.config import ExpertsConfig, GateConfig, LinearAttentionConfig, QuantizationConfig
from rave_mlx.convert.open import open_stored
from rave_mlx.convert.open_part import Processes, open_part
from rave_mlx.errors import ModelError, UsageError
from rave_mlx.models.decoder import Decoder
from rave_mlx.models.split.shares import check_split, part_config, share_of, units_of
from rave_mlx.models.split.tensors import Parts, parts_of, take
from rave_mlx.policies.parse import steering
from rave_mlx.policies.runtime import attach

GATED = GateConfig(rank=3, kv_groups=(1,))


def parts_for(config, rank, size):
    return Parts(config, share_of(config, rank, size), units_of(config, size))


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize(
    "text",
    [
        {"num_heads": 12, "num_kv_heads": 4},
        {"num_heads": 12, "num_kv_heads": 4, "output_gate": True, "linear": LinearAttentionConfig((0,), 4, 8, 6, 10)},
        {"num_heads": 12, "num_kv_heads": 4, "experts": ExpertsConfig(5, 2, 14, shared_size=9)},
    ],
)
def test_parts_are_of_the_shapes_that_a_part_has_and_together_the_whole(text, size):
    config = tiny_config(GATED, intermediate_size=83, output_bias=True, mlp_bias=True, **text)
    whole = tiny_model(GATED, intermediate_size=83, output_bias=True, mlp_bias=True, **text).named_weights()
    held = {name: [] for name in whole}
    for rank in range(size):
        parts, share = parts_for(config, rank, size), share_of(config, rank, size)
        own = tree_flatten(Decoder(part_config(config, share, units_of(config, size))).parameters())
        taken = {name: take(x, part) for name, x in whole.items() if (part := parts.of(name)) is not None}
        shapes = {f"decoder.{name}": x.shape for name, x in own if name.startswith("layers")}
        assert {name: x.shape for name, x in taken.items() if name.startswith("decoder.layers")} == shapes
        for name, x in taken.items():
            held[name].append((x, parts.of(name)))
    for name, found in held.items():
        numbers = np.sort(np.array(whole[name]).ravel())
        if name.startswith("decoder.layers") and found[0][1].axis is not None:
            together = np.concatenate([np.array(x).ravel() for x, _ in found])
            np.testing.assert_array_equal(np.sort(together), numbers, err_msg=name)
        else:
            # Whole in process 0; a bias of what is added up is zero in the others.
            np.testing.assert_array_equal(found[0][0], whole[name])
            assert all(mx.all(x == (0 if part.zero else whole[name])) for x, part in found[1:]), name


def test_experts_add_up():
    text = {"num_layers": 1, "experts": ExpertsConfig(5, 2, 14, shared_size=9)}
    whole = tiny_model(**text)
    config, weights = whole.config, whole.named_weights()
    x = mx.array(np.random.default_rng(0).normal(size=(1, 7, 48)).astype(np.float32))
    total = mx.zeros(x.shape)
    for rank in range(2):
        parts = parts_for(config, rank, 2)
        decoder = Decoder(part_config(config, share_of(config, rank, 2), units_of(config, 2)))
        taken = {n.removeprefix("decoder."): take(w, p) for n, w in weights.items() if (p := parts.of(n)) is not None}
        decoder.load_weights(list(taken.items()), strict=False)
        total = total + decoder.layers[0].mlp(x)
    assert relative(total, whole.decoder.layers[0].mlp(x)) < 1e-6


def test_what_needs_all_heads_is_refused(tmp_path):
    stored = open_stored(written(tiny_model(GATED, num_layers=2), tmp_path / "model"))
    alone = Processes(World(0, 1, mx.distributed.init()), ())
    lmm, _ = open_part(stored.lmm, stored.tensors, stored.place, alone, None, "")
    assert [piece.finish for piece in Session(lmm, policy="rave", max_tokens=1).send("So?")] == ["length"]
    with pytest.raises(UsageError, match=r"need all heads .*: choose --attention rave or none"):
        list(Session(lmm, policy="var:cosine").send("So?"))
    with pytest.raises(UsageError, match="need all heads"):
        lmm.logits(
            lmm.prepare([{"role": "user", "content": "So?"}]), hooks=attach(lmm, steering("var:cosine").policies)
        )


@pytest.mark.parametrize("size", [4, 8])
def test_processes_share_a_key_value_head_where_there_are_fewer_heads(size):
    config = tiny_config(GateConfig(rank=3, kv_groups=(1,)), num_heads=8)
    shares = [share_of(config, rank, size) for rank in range(size)]
    assert [share.heads for share in shares] == [(8 * r // size, 8 * (r + 1) // size) for r in range(size)]
    assert [share.kv_heads for share in shares] == [(2 * r // size, 2 * r // size + 1) for r in range(size)]
    assert [share.gated for share in shares] == [()] * (size // 2) + [(1,)] * (size // 2)
    # U has the four query heads of the gated head of keys and values.
    spans = [parts_for(config, rank, size).of("decoder.layers.0.attention.gate.U") for rank in range(size // 2, size)]
    width = 8 // size
    assert [part.spans for part in spans] == [((width * i, width * (i + 1)),) for i in range(size // 2)]


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({"num_heads": 12, "num_kv_heads": 4}, 5, "12 query heads of 4 .* among 5 .*; possible are: 2, 3, 4, 12"),
        ({"linear": LinearAttentionConfig((0,), 2, 4, 8, 8)}, 4, "4 query heads of 2 .* among 4 .*; possible are: 2"),
        ({"experts": ExpertsConfig(4, 2, 8, beside=True)}, 2, "a decoder with beside .* is not split"),
        ({"value_norm": True}, 2, r"a decoder with value_norm \(qwen2_5_vl\) is not split over processes"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_said_in_one_line(changes, size, message):
    with pytest.raises(ModelError, match=message):
        check_split(tiny_config(**changes), size)


@pytest.mark.parametrize(
    ("bits", "group", "size", "message"),
    [
        (4, 32, 2, "o_proj has groups of 32 quantized numbers, heads that stay together 16: .* --group-size 16"),
        (4, 64, 3, "the MLP's width of 128 has 2 groups of 64 quantized numbers: it cannot be split among 3 processes"),
    ],
)
def test_groups_of_quantized_numbers_stay_together(bits, group, size, message):
    config = tiny_config(intermediate_size=128, num_heads=3, num_kv_heads=3)
    config = replace(config, quantization=QuantizationConfig(bits, group))
    with pytest.raises(ModelError, match=message):
        check_split(config, size)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.uint32, mx.uint8])
def test_a_part_is_read_as_it_would_be_cut(dtype, tmp_path):
    rng = np.random.default_rng(0)
    whole = {
        "a": mx.array(rng.integers(0, 99, (7, 12))).astype(dtype),
        "b": mx.array(rng.integers(0, 99, (3, 5, 4))).astype(dtype),
    }
    mx.save_safetensors(str(tmp_path / "x.safetensors"), whole)
    tensors = open_files([tmp_path / "x.safetensors"])
    for place, axis, spans, expected in [
        (Place(tensors, "a"), 0, [(2, 5)], whole["a"][2:5]),
        (Place(tensors, "a"), -1, [(3, 4), (8, 12)], mx.concatenate([whole["a"][:, 3:4], whole["a"][:, 8:]], axis=1)),
        (Place(tensors, "a", (4, 7)), 1, [(0, 6)], whole["a"][4:, :6]),
        (Place(tensors, "b"), 1, [(1, 3)], whole["b"][:, 1:3]),
        (Place(tensors, "b", (1, 3)), 2, [(2, 4)], whole["b"][1:, :, 2:]),
    ]:
        found = read_part(place, axis, spans)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found.astype(mx.float32), expected.astype(mx.float32))


def test_a_file_that_ends_early_is_named(tmp_path):
    file = tmp_path / "x.safetensors"
    mx.save_safetensors(str(file), {"a": mx.zeros((8, 8))})
    tensors = open_files([file])
    file.write_bytes(file.read_bytes()[:-32])
    with pytest.raises(ModelError, match=r"x\.safetensors: ends within a; download"):
        read_part(Place(tensors, "a"), 0, [(4, 8)])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux's count of bytes read")
@pytest.mark.parametrize("kind", ["rave", "published"])
def test_a_process_reads_its_share_of_the_files(kind, tmp_path):
    folder = tmp_path / kind
    if kind == "published":
        write_checkpoint(cases()["qwen2_5_vl"], folder)
    else:
        written(tiny_model(GATED, intermediate_size=2000, num_layers=2), folder)
    stored = open_stored(folder)
    config = stored.lmm.config
    parts = parts_for(config, 1, 2)
    before = bytes_read()

    def read(name, part):
        return read_part(stored.place(name), part.axis, part.spans)

    found = dict(parts_of(stored.tensors, parts, read))
    mx.eval(found)
    total = bytes_read() - before
    layers = sum(x.nbytes for name, x in stored.lmm.named_weights().items() if "decoder.layers" in name)
    assert 0.4 * layers < total < 0.6 * layers, (total, layers)


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])
