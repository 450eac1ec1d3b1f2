"""Conversion: what is written, how much memory that takes, what is said about it."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from command import COMMAND, rave
from families import CONVERSATIONS, cases, write_checkpoint
from hub_server import files_of
from safetensors.numpy import load_file, save_file

import rave_mlx
from rave_mlx.checkpoint import directory, safetensors_writer
from rave_mlx.config import GateConfig, QuantizationConfig
from rave_mlx.convert import Options, convert, plan
from rave_mlx.convert.card import Origin, card


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(cases()["qwen2_5_vl"], tmp_path_factory.mktemp("checkpoint"))


def edit(folder, change):
    """Rewrite the weights of a checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def logits(folder):
    lmm = rave_mlx.load(folder)
    return np.array(lmm.logits(lmm.prepare(CONVERSATIONS["one image"])))


def test_a_converted_model_answers_as_its_checkpoint_and_leaves_that_alone(checkpoint, tmp_path):
    before = files_of(checkpoint)
    out = convert(checkpoint, tmp_path / "out")
    assert (logits(out) == logits(checkpoint)).all()
    assert files_of(checkpoint) == before
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "hub", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    again = convert(checkpoint, tmp_path / "again")
    assert files_of(out) == files_of(again)


def test_other_programs_read_what_is_written_in_shards(checkpoint, tmp_path, monkeypatch):
    """safetensors itself, which checks offsets and sizes, is the judge."""
    monkeypatch.setattr(safetensors_writer, "SHARD_BYTES", 300_000)
    out = convert(checkpoint, tmp_path / "out")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = sorted(p.name for p in out.glob("*.safetensors"))
    assert shards == [f"model-{i:05d}-of-00004.safetensors" for i in range(1, 5)]
    found = {file: load_file(out / file) for file in shards}
    assert index["weight_map"] == {name: file for file, part in found.items() for name in part}
    assert index["metadata"]["total_size"] == sum(t.nbytes for part in found.values() for t in part.values())
    assert all(sum(t.nbytes for t in part.values()) <= 300_000 for part in found.values())
    assert all(file.stat().st_size % 8 == 0 for file in out.glob("*.safetensors"))
    source = load_file(checkpoint / "model.safetensors")
    norm = found["model-00004-of-00004.safetensors"]["decoder.norm.weight"]
    assert (norm == source["model.language_model.norm.weight"]).all()
    assert (logits(out) == logits(checkpoint)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_types(checkpoint, tmp_path, dtype):
    out = convert(checkpoint, tmp_path / "out", dtype=dtype, gate=GateConfig(rank=3))
    kinds = {"gate" if ".gate." in n else "rest": str(t.dtype) for n, t in directory.read_tensors(out).items()}
    assert kinds == {"gate": "mlx.core.float32", "rest": f"mlx.core.{dtype}"}
    source = load_file(checkpoint / "model.safetensors")["model.language_model.embed_tokens.weight"]
    expected = np.array(mx.array(source).astype(getattr(mx, dtype)).astype(mx.float32))
    assert (np.array(directory.read_tensors(out)["decoder.embed.weight"].astype(mx.float32)) == expected).all()


def large_checkpoint(folder, layers, hidden=1024, inner=4096):
    """A random text model of qwen2's kind, about 57 MB a layer in float32."""
    case = cases()["qwen2"]
    config = case.config | {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": hidden // 8, "layer_types": ["full_attention"] * layers,
        "max_window_layers": layers, "use_sliding_window": False, "sliding_window": None,
    }  # fmt: skip
    write_checkpoint(replace(case, config=config), folder)
    shapes = {"embed_tokens.weight": (272, hidden), "norm.weight": (hidden,)}
    for i in range(layers):
        for name, shape in {
            "input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (hidden, hidden), "self_attn.q_proj.bias": (hidden,),
            "self_attn.k_proj.weight": (hidden // 4, hidden), "self_attn.k_proj.bias": (hidden // 4,),
            "self_attn.v_proj.weight": (hidden // 4, hidden), "self_attn.v_proj.bias": (hidden // 4,),
            "self_attn.o_proj.weight": (hidden, hidden), "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden), "mlp.down_proj.weight": (hidden, inner),
        }.items():  # fmt: skip
            shapes[f"layers.{i}.{name}"] = shape
    rng = np.random.default_rng(0)
    tensors = {f"model.{n}": rng.random(s, np.float32) for n, s in shapes.items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return large_checkpoint(tmp_path_factory.mktemp("large"), layers=7)


GROWTH = """
import resource, sys
from rave_mlx.convert import Options, convert
convert(SMALL, OUT + "-warm")
unit = 1 if sys.platform == "darwin" else 1024
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
convert(LARGE, OUT, OPTIONS)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before)
"""


@pytest.mark.parametrize("options", ["", "dtype='bfloat16'", "quantize=Options(4)"], ids=["as it is", "cast", "packed"])
def test_memory_does_not_grow_with_the_model(large, checkpoint, tmp_path, options):
    """400 MB in tensors of 17 MB at most: three of those and a little is all that conversion may take."""
    size = (large / "model.safetensors").stat().st_size
    values = {"SMALL": str(checkpoint), "LARGE": str(large), "OUT": str(tmp_path / "out")}
    code = "".join(f"{name} = {value!r}\n" for name, value in values.items()) + GROWTH.replace("OPTIONS", options)
    # In a process that a small one starts: a child counts its parent's memory as its own peak until it starts.
    launch = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {code!r}]))"
    done = subprocess.run([sys.executable, "-S", "-c", launch], capture_output=True, text=True, check=True)
    largest = 4096 * 1024 * 4
    assert size > 390e6
    assert int(done.stdout) < 3 * largest + 50e6
    shutil.rmtree(tmp_path / "out")


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_conversions_leave_no_threads(checkpoint, tmp_path):
    convert(checkpoint, tmp_path / "first")
    threads = Path("/proc/self/task")
    before = len(list(threads.iterdir()))
    for i in range(10):
        convert(checkpoint, tmp_path / str(i))
    # Two a conversion were left once; libraries may start a few of their own meanwhile.
    assert len(list(threads.iterdir())) < before + 10


def test_converting_in_several_threads(checkpoint, tmp_path):
    with ThreadPoolExecutor(3) as pool:
        outs = list(pool.map(lambda i: convert(checkpoint, tmp_path / str(i), dtype="bfloat16"), range(6)))
    assert len({(out / "model.safetensors").read_bytes() for out in outs}) == 1


def test_progress_counts_bytes(checkpoint, tmp_path):
    seen = []
    out = convert(checkpoint, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    tensors = load_file(out / "model.safetensors")
    total = sum(t.nbytes for t in tensors.values())
    assert [t for _, t in seen] == [total] * len(tensors)
    assert seen[-1][0] == total
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


def test_the_bar_is_for_terminals(large, tmp_path):
    quiet = rave("convert", large, tmp_path / "one")
    assert quiet.stdout == f"{tmp_path / 'one'}\n"
    assert quiet.stderr.count("\n") == 1
    parent, child = pty.openpty()
    done = subprocess.Popen([*COMMAND, "convert", str(large), str(tmp_path / "two")], stdout=subprocess.PIPE,
                            stderr=child, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"})  # fmt: skip
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(parent, 4096)
        except OSError:
            break
        if done.poll() is not None:
            break
    assert done.wait() == 0
    assert done.stdout.read().decode() == f"{tmp_path / 'two'}\n"
    assert b"Converting" in shown
    assert b"MB" in shown
    os.close(parent)
    for name in ("one", "two"):
        shutil.rmtree(tmp_path / name)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_values_that_are_no_numbers_are_named(checkpoint, tmp_path, value, dtype):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")

    def spoil(tensors):
        for name in tensors:
            tensors[name] = tensors[name].astype(dtype)
        tensors["model.language_model.layers.1.mlp.up_proj.weight"][3, 5] = value
        tensors["lm_head.weight"][-1, -1] = value

    edit(folder, spoil)
    notes = []
    convert(folder, tmp_path / "out", note=notes.append)
    assert len(notes) == 1
    assert "NaN or infinite weights in decoder.layers.1.mlp.up_proj.weight, decoder.head.weight;" in notes[0]
    done = rave("convert", folder, tmp_path / "again")
    assert done.returncode == 0
    assert notes[0] in done.stderr


@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
def test_quantization_does_not_hide_them(checkpoint, tmp_path, mode):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    edit(folder, lambda t: t["model.language_model.layers.1.mlp.up_proj.weight"].__setitem__((3, 5), np.nan))
    notes = []
    convert(folder, tmp_path / "out", quantize=Options(mode=mode, group_size=32), note=notes.append)
    assert notes[0].startswith("warning: NaN or infinite weights in decoder.layers.1.mlp.up_proj.weight;")


def test_ten_names_and_what_a_cast_makes_infinite(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")

    def enlarge(tensors):
        for name in tensors:
            if name.endswith("norm.weight"):
                tensors[name] = np.full_like(tensors[name], 1e30)
        for name in [n for n in tensors if n.endswith("bias")]:
            tensors[name] = np.full_like(tensors[name], -1e38)

    edit(folder, enlarge)
    notes = []
    convert(folder, tmp_path / "one", note=notes.append)
    convert(folder, tmp_path / "two", dtype="bfloat16", note=notes.append)
    assert notes == []
    convert(folder, tmp_path / "three", dtype="float16", note=notes.append)
    assert notes[0].split(";")[0].count(", ") == 9
    assert " more; " in notes[0]


def test_a_plan_says_what_conversion_does(checkpoint, tmp_path):
    found = plan(checkpoint, dtype="bfloat16", gate=GateConfig(rank=4, kv_groups=1.0))
    out = convert(checkpoint, tmp_path / "out", dtype="bfloat16", gate=GateConfig(rank=4, kv_groups=1.0))
    tensors = directory.read_tensors(out)
    assert found.config == directory.read_config(out)
    assert found.before == sum(t.nbytes for t in load_file(checkpoint / "model.safetensors").values())
    assert found.after == sum(t.nbytes for t in tensors.values())
    assert sum(found.parameters.values()) == sum(t.size for t in tensors.values())
    gates = sum(t.size for n, t in tensors.items() if ".gate." in n)
    assert found.parameters["gate"] == gates
    assert found.dtypes["float32"] == 4 * gates
    # 3 layers, 2 KV heads of 16 numbers, keys and values in float32; gate keys of 2 groups, rank 4 + 2.
    assert found.context == 4096
    assert found.cache == 4096 * (2 * 3 * 2 * 16 * 4 + 3 * 2 * 6 * 4)


def test_a_plan_reads_headers_only_and_writes_nothing(tmp_path):
    """A model of 70 GB whose weights are a hole in a file."""
    hidden, layers, vocabulary = 8192, 40, 152_064
    case = cases()["qwen2"]
    config = case.config | {
        "hidden_size": hidden, "intermediate_size": 29568, "num_hidden_layers": layers, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": vocabulary, "max_position_embeddings": 32768,
        "layer_types": ["full_attention"] * layers, "max_window_layers": layers,
    }  # fmt: skip
    folder = write_checkpoint(replace(case, config=config), tmp_path / "checkpoint")
    stem = "model.layers"
    shapes = {"model.embed_tokens.weight": [vocabulary, hidden], "model.norm.weight": [hidden],
              "lm_head.weight": [vocabulary, hidden]}  # fmt: skip
    for i in range(layers):
        shapes |= {f"{stem}.{i}.{n}.weight": s for n, s in {
            "input_layernorm": [hidden], "post_attention_layernorm": [hidden], "self_attn.q_proj": [hidden, hidden],
            "self_attn.k_proj": [1024, hidden], "self_attn.v_proj": [1024, hidden],
            "self_attn.o_proj": [hidden, hidden], "mlp.gate_proj": [29568, hidden], "mlp.up_proj": [29568, hidden],
            "mlp.down_proj": [hidden, 29568]}.items()}  # fmt: skip
        shapes |= {f"{stem}.{i}.self_attn.{n}_proj.bias": [w] for n, w in (("q", hidden), ("k", 1024), ("v", 1024))}
    header, end = {}, 0
    for name, shape in shapes.items():
        first, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [first, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    done = rave("convert", folder, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    rows = {name: value.strip() for name, value in rows.items()}
    assert rows["family"] == "qwen2"
    assert rows["parameters"].startswith(f"{end // 2:,} (")
    assert rows["size"] == f"{end / 1e9:.2f} GB before, {end / 1e9:.2f} GB after"
    assert rows["types"] == f"bfloat16 {end / 1e9:.2f} GB"
    assert "cache of 8,192 tokens" in rows["memory to run"]
    assert list(tmp_path.iterdir()) == [folder]


def test_the_card_says_where_the_model_came_from(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "My model")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage:\n- en\n---\n")
    out = convert(folder, tmp_path / "out", gate=GateConfig(rank=5))
    text = (out / "README.md").read_text()
    assert text.startswith('---\nlibrary_name: "rave-mlx"\n')
    assert 'pipeline_tag: "image-text-to-text"' in text
    assert 'license: "apache-2.0"' in text
    assert "base_model" not in text
    assert "converted from: `My model`" in text
    assert str(tmp_path) not in text
    assert "pair gates of rank 5" in text
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        assert f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" in text


def test_large_weight_files_are_hashed_on_demand(large, tmp_path):
    for hashes in (False, True):
        out = convert(large, tmp_path / "out", hashes=hashes)
        text = (out / "README.md").read_text()
        assert "  config.json\n" in text
        digest = hashlib.sha256((large / "model.safetensors").read_bytes()).hexdigest() if hashes else "model.safe"
        assert (f"{digest}  model.safetensors\n" in text) == hashes
        shutil.rmtree(out)


def test_the_card_of_a_quantized_model_from_the_hub():
    base = directory.read_config(rave_mlx.checkpoint.directory.BUILT_IN)
    rest = {"decoder.head": QuantizationConfig(6, 64), "vision": None}
    config = replace(base, quantization=QuantizationConfig(4, 64, layers=rest))
    text = card(config, Origin("Qwen/Qwen2.5-VL-3B-Instruct", "0123abc", {}, {}))
    assert 'base_model: "Qwen/Qwen2.5-VL-3B-Instruct"\nbase_model_relation: "quantized"\n' in text
    assert "affine, 4 bits in groups of 64, some layers with 6 bits" in text
    assert "`Qwen/Qwen2.5-VL-3B-Instruct` at commit `0123abc`" in text


def test_the_command_line_quantizes_and_checks(tmp_path):
    case = cases()["qwen2_5_vl"]
    folder = write_checkpoint(case, tmp_path / "hf")
    done = rave("convert", folder, tmp_path / "four", "--quantize", "4", "--group-size", "32", "--check")
    assert done.returncode == 0, done.stderr
    first, *report = done.stdout.splitlines()
    assert first == str(tmp_path / "four")
    assert "compared with the original" in report[0]
    assert any("decoder.layers" in line for line in report)
    packing = directory.read_config(tmp_path / "four").quantization
    assert packing is not None
    assert (packing.bits, packing.group_size, packing.mode) == (4, 32, "affine")
    for wrong, message in (
        (("--group-size", "32"), "go with --quantize"),
        (("--quantize", "4", "--check-image", "a.png"), "goes with --check"),
        (("--quantize", "7"), "7"),
        (("--recipe", "none"), "no such file"),
    ):
        failed = rave("convert", folder, tmp_path / "no", *wrong)
        assert failed.returncode == 2, failed.stderr
        assert message in failed.stderr
    assert not (tmp_path / "no").exists()


def test_matrices_that_cannot_be_packed_are_named(checkpoint, tmp_path):
    notes = []
    # The decoder is 64 wide, its MLP 96: groups of 64 do not divide the rows of down_proj.
    convert(checkpoint, tmp_path / "out", quantize=Options(bits=4, group_size=64), note=notes.append)
    (note,) = notes
    assert note.startswith("not quantized: 3 matrices whose rows the group size does not divide: ")
    assert "decoder.layers.0.mlp.down_proj" in note
    lines = "\n".join(plan(checkpoint, quantize=Options(bits=4, group_size=64)).lines())
    assert "3 matrices whose rows the group size does not divide" in lines
    assert "not quantized" not in "\n".join(plan(checkpoint, quantize=Options(bits=4, group_size=32)).lines())
