"""Checkpoints that cannot be converted: one line that says what to do, nothing half-written, the source untouched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from families import cases, write_checkpoint
from hub_server import files_of
from safetensors.numpy import load_file, save_file

import rave_mlx
from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.safetensors_reader import open_files, read_entries
from rave_mlx.convert import convert, plan
from rave_mlx.errors import ModelError, RaveError

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(cases()["qwen2_5_vl"], tmp_path / "checkpoint")


def refused(source, out, error):
    """Converting is refused with one line that holds `error`; nothing is written, nothing is changed."""
    before = {p: (p.lstat().st_mtime_ns, p.lstat().st_size) for p in sorted(source.rglob("*"))}
    with pytest.raises(RaveError) as caught:
        convert(source, out)
    message = str(caught.value)
    assert error in message
    assert "\n" not in message
    assert {p: (p.lstat().st_mtime_ns, p.lstat().st_size) for p in sorted(source.rglob("*"))} == before
    left = [p for p in out.parent.iterdir() if p != source]
    assert left == []
    return message


def raw(path, header, data=b"", length=None):
    """A safetensors file from a header, text or bytes or an object."""
    text = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize(
    ("header", "data", "error"),
    [
        (b"\xff\xfe{}", b"", "utf-8"),
        (b'{"a": ' + json.dumps(F32).encode(), b"\0" * 8, "invalid JSON in header"),
        ("[1, 2]", b"", "invalid JSON in header"),
        ("3", b"", "invalid JSON in header"),
        ("[" * 100_000, b"", "invalid JSON in header"),
        (f'{{"a": {json.dumps(F32)}, "a": {json.dumps(F32)}}}', b"\0" * 8, "'a' occurs twice"),
        ('{"a": {"dtype": "F32", "dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', b"\0" * 8, "duplicate field"),
        ({"a": F32, "b": F32}, b"\0" * 8, "invalid offset for tensor"),
        ({"a": F32, "b": F32 | {"data_offsets": [4, 12]}}, b"\0" * 12, "invalid offset for tensor `b`"),
        ({"a": F32 | {"data_offsets": [8, 16]}}, b"\0" * 16, "invalid offset for tensor `a`"),
        ({"a": F32}, b"\0" * 7, "file not fully covered"),
        ({"a": F32}, b"\0" * 9, "file not fully covered"),
        ({"a": F32 | {"shape": [3]}}, b"\0" * 8, "invalid shape, data type, or offset for tensor"),
        ({"a": F32 | {"shape": [2**63]}}, b"\0" * 8, "overflow computing buffer size"),
        ({"a": F32 | {"shape": [2**31 - 1] * 4}}, b"\0" * 8, "overflow computing buffer size"),
        ({"a": F32 | {"shape": [-1, -2]}}, b"\0" * 8, "invalid value: integer `-1`, expected usize"),
        ({"a": F32 | {"shape": [2.0]}}, b"\0" * 8, "floating point `2.0`, expected usize"),
        ({"a": F32 | {"shape": [True, 2]}}, b"\0" * 8, "boolean `true`, expected usize"),
        ({"a": F32 | {"shape": "2"}}, b"\0" * 8, 'string "2", expected a sequence'),
        ({"a": F32 | {"shape": [1] * 20 + [2]}}, b"\0" * 8, "tensor a has the shape"),
        ({"a": F32 | {"data_offsets": [0, 2**63]}}, b"\0" * 8, "invalid shape, data type, or offset for tensor"),
        ({"a": F32 | {"data_offsets": [8, 0]}}, b"\0" * 8, "invalid offset for tensor `a`"),
        ({"a": F32 | {"data_offsets": [0]}}, b"\0" * 8, "invalid length 1, expected a tuple of size 2"),
        ({"a": F32 | {"data_offsets": None}}, b"\0" * 8, "null, expected a tuple of size 2"),
        ({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8, "missing field `data_offsets`"),
        ({"a": F32 | {"more": 1}}, b"\0" * 8, "exactly dtype, shape and data_offsets"),
        ({"a": None}, b"", "null, expected struct TensorInfo"),
        ({"a": F32 | {"dtype": "F8_E4M3", "shape": [8]}}, b"\0" * 8, "tensor a has type 'F8_E4M3', which is not read"),
        ({"a": F32 | {"dtype": "F64", "shape": [1]}}, b"\0" * 8, "use the 16-bit version"),
        ({"a": F32 | {"dtype": "Q4_K"}}, b"\0" * 8, "unknown variant `Q4_K`"),
        ({"a": F32 | {"dtype": 32}}, b"\0" * 8, "integer `32`, expected string"),
        ({"a": F32 | {"dtype": "\x1b[2J"}}, b"\0" * 8, "unknown variant `?[2J`"),
        ({"": F32}, b"\0" * 8, "'' is no name"),
        ({"a\x1b[2J": F32}, b"\0" * 8, "is no name of a tensor"),
        ('{"\\ud800": ' + json.dumps(F32) + "}", b"\0" * 8, "invalid JSON in header"),
        ({"__metadata__": {"format": 1}, "a": F32}, b"\0" * 8, "invalid JSON in header"),
        ({"__metadata__": [], "a": F32}, b"\0" * 8, "invalid JSON in header"),
        ('{"a": [1' + "0" * 5000 + "]}", b"\0" * 8, "number out of range"),
    ],
)  # fmt: skip
def test_hostile_headers(checkpoint, tmp_path, header, data, error):
    raw(checkpoint / "model.safetensors", header, data)
    message = refused(checkpoint, tmp_path / "out", error)
    assert str(checkpoint / "model.safetensors") in message
    assert len(message) < 1000
    with pytest.raises(ModelError):
        rave_mlx.load(checkpoint)


@pytest.mark.parametrize("length", [3, 1 << 20, 2**63, 2**64 - 1])
def test_header_lengths(checkpoint, tmp_path, length):
    raw(checkpoint / "model.safetensors", {"a": F32}, b"\0" * 8, length=length)
    refused(checkpoint, tmp_path / "out", "not a complete safetensors file")


def test_a_header_longer_than_any_is_not_read(checkpoint, tmp_path):
    """A file with a hole: reading it would take 300 MB."""
    with (checkpoint / "model.safetensors").open("wb") as stream:
        stream.write((300_000_000).to_bytes(8, "little"))
        stream.truncate(400_000_000)
    refused(checkpoint, tmp_path / "out", "header too large")


@pytest.mark.parametrize("keep", [0, 7, 8, 200, -1, -100_000])
def test_truncated_files(checkpoint, tmp_path, keep):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refused(checkpoint, tmp_path / "out", "not a complete safetensors file")


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_what_is_no_file_is_not_waited_for(checkpoint, tmp_path, kind):
    file = checkpoint / "model.safetensors"
    file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    else:
        file.mkdir()
    refused(checkpoint, tmp_path / "out", "is not a regular file")


def test_valid_files_that_look_odd_are_read(tmp_path):
    """Empty tensors and scalars, any order of names, padding after the header, types that quantized files use."""
    header = {"z": F32, "a": {"dtype": "I64", "shape": [], "data_offsets": [8, 16]},
              "e": {"dtype": "F16", "shape": [0, 5], "data_offsets": [16, 16]},
              "q": {"dtype": "U32", "shape": [1, 1], "data_offsets": [16, 20]}}  # fmt: skip
    file = raw(tmp_path / "x.safetensors", json.dumps(header) + "   ", np.arange(5, dtype=np.uint32).tobytes())
    assert list(read_entries(file)) == ["z", "a", "e", "q"]
    tensors = open_files([file])
    assert {n: (t.shape, t.nbytes) for n, t in tensors.items()} == {
        "z": ((2,), 8), "a": ((), 8), "e": ((0, 5), 0), "q": ((1, 1), 4)
    }  # fmt: skip
    assert tensors["q"].item() == 4
    assert tensors["q"].item() == 4
    assert "missing" not in tensors
    expected = load_file(file)
    assert (np.array(tensors["z"]) == expected["z"]).all()


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_missing_extra_and_misshapen_tensors_are_all_named(checkpoint, tmp_path):
    def change(tensors):
        del tensors["model.visual.merger.ln_q.weight"]
        tensors["model.language_model.norm.weight"] = np.zeros((3, 5), np.float32)
        tensors["model.language_model.surprise"] = np.zeros(2, np.float32)

    edit(checkpoint, change)
    message = refused(checkpoint, tmp_path / "out", "the weights do not fit the configuration")
    assert "missing: model.visual.merger.ln_q.weight" in message
    assert "unexpected: model.language_model.surprise" in message
    assert "wrong shape: model.language_model.norm.weight [3, 5] instead of [64]" in message


def test_at_most_ten_are_shown(checkpoint, tmp_path):
    edit(checkpoint, lambda t: [t.pop(n) for n in list(t) if n.endswith("weight")])
    message = refused(checkpoint, tmp_path / "out", " more")
    assert message.split("missing: ")[1].split(" and ")[0].count(", ") == 9


def test_a_model_type_that_is_not_supported(checkpoint, tmp_path):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "mamba9"}))
    message = refused(checkpoint, tmp_path / "out", "model type 'mamba9' is not supported; supported: ")
    assert "qwen2_5_vl" in message
    assert "smolvlm" in message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "pytorch_model-00001-of-00002.bin"])
def test_pickles_are_never_opened(checkpoint, tmp_path, name):
    (checkpoint / "model.safetensors").unlink()
    trap = tmp_path / "trap"
    (checkpoint / name).write_bytes(b"cos\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR.")
    refused(checkpoint, tmp_path / "out", f"only pickled weights ({name}), which can run code")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"weight_map": {"a": "../model.safetensors"}}', "'../model.safetensors' is no *.safetensors file"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "is no *.safetensors file"),
        ('{"weight_map": {"a": "pytorch_model.bin"}}', "is no *.safetensors file"),
        ('{"weight_map": {"a": "x\\u001b[2J.safetensors"}}', "is no *.safetensors file"),
        ('{"weight_map": {"a": ""}}', "is no *.safetensors file"),
        ('{"weight_map": {}}', "is no *.safetensors file"),
        ('{"weight_map": ["model.safetensors"]}', "weight_map should map tensors to files"),
        ('{"weight_map": {"a": 1}}', "weight_map should map tensors to files"),
        ("{}", "weight_map should map tensors to files"),
        ("{", "not valid JSON"),
        ('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', "1 of 1 weight files are missing"),
    ],
)
def test_indexes(checkpoint, tmp_path, text, error):
    (checkpoint / "model.safetensors.index.json").write_text(text)
    refused(checkpoint, tmp_path / "out", error)


def test_a_second_copy_of_the_weights_is_left_alone(checkpoint, tmp_path):
    (checkpoint / "consolidated.safetensors").write_bytes(b"not even safetensors")
    convert(checkpoint, tmp_path / "out")
    raw(checkpoint / "stale.safetensors", {"lm_head.weight": F32}, b"\0" * 8)
    shutil.rmtree(tmp_path / "out")
    refused(checkpoint, tmp_path / "out", "tensor lm_head.weight is also in model.safetensors; remove the stale file")
    index = {"weight_map": {"lm_head.weight": "model.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    convert(checkpoint, tmp_path / "out")


@pytest.mark.parametrize("others", [["tokenizer.model"], ["vocab.json", "merges.txt"]])
def test_tokenizers_of_other_kinds(checkpoint, tmp_path, others):
    (checkpoint / "tokenizer.json").unlink()
    for name in others:
        (checkpoint / name).write_text("{}")
    message = refused(checkpoint, tmp_path / "out", f"has {' and '.join(others)} but no tokenizer.json")
    assert f"AutoTokenizer.from_pretrained('{checkpoint}')" in message


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_exists_is_not_overwritten(checkpoint, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "precious").write_text("keep")
    elif kind == "file":
        out.write_text("keep")
    else:
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="out: already exists; choose another place or remove it first"):
        convert(checkpoint, out)
    with pytest.raises(ModelError, match="already exists"):
        # Before anything is asked of the source: the Hub may be slow.
        convert("owner/not-here", out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "out"]
    assert kind != "folder" or files_of(out) == {"precious": b"keep"}


def test_converting_twice(checkpoint, tmp_path):
    once = convert(checkpoint, tmp_path / "once")
    for again in (convert, plan):
        with pytest.raises(ModelError, match="once: is a rave directory already; say what to change"):
            again(once, *([tmp_path / "twice"] if again is convert else []))
    with pytest.raises(ModelError, match="is a rave directory already"):
        convert(directory.BUILT_IN, tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_a_place_that_cannot_be_created(checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be created"):
        convert(checkpoint, tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == ""


def test_no_room_is_found_out_before_writing(checkpoint, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    refused(checkpoint, tmp_path / "out", "0.00 GB are needed on the disk, 0.00 GB are free; make room or choose")


def test_a_write_that_fails_half_way_leaves_nothing(checkpoint, tmp_path):
    """The kernel refuses files beyond 200 kB, as a full disk would."""
    code = (
        "import resource, signal, sys; from rave_mlx.cli.main import run;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])); run()"
    )
    command = [sys.executable, "-c", code, "convert", str(checkpoint), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"rave-mlx: {tmp_path / 'out'}: cannot be written (File too large); nothing was left behind\n"
    )
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_source_that_shrinks_while_it_is_read(checkpoint, tmp_path):
    """Its header was fine; the bytes are gone when their turn comes."""
    file = checkpoint / "model.safetensors"

    def cut(done, total):
        os.truncate(file, 1000)

    with pytest.raises(RaveError, match="cannot be read|not a complete"):
        convert(checkpoint, tmp_path / "out", progress=cut)
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_interrupted(checkpoint, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; the weight files have 93 tensors"),
        ({"vocab_size": 2**40}, "text.vocab_size is 1099511627776"),
        ({"hidden_size": 2**40}, "config.json: text.rope.sections"),
        ({"intermediate_size": 10**12}, "text.intermediate_size is 1000000000000"),
        ({"num_attention_heads": 2**32, "head_dim": 16}, "text.num_heads is 4294967296"),
        ({"num_key_value_heads": 0}, "num_kv_heads"),
        ({"num_hidden_layers": True}, "num_hidden_layers should be int"),
        ({"hidden_size": "64"}, "hidden_size should be int"),
    ],
)
def test_sizes_that_the_weights_cannot_fill(checkpoint, tmp_path, change, error):
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"] |= change
    (checkpoint / "config.json").write_text(json.dumps(config))
    refused(checkpoint, tmp_path / "out", error)


def test_an_unreadable_file(checkpoint, tmp_path):
    (checkpoint / "model.safetensors").chmod(0)
    if os.access(checkpoint / "model.safetensors", os.R_OK):
        pytest.skip("this user may read everything")
    refused(checkpoint, tmp_path / "out", "model.safetensors: cannot be read (Permission denied)")


def test_a_rave_directory_with_a_hostile_file(checkpoint, tmp_path):
    out = convert(checkpoint, tmp_path / "out")
    raw(out / "model.safetensors", {"a": F32, "b": F32}, b"\0" * 8)
    with pytest.raises(ModelError, match="invalid offset for tensor"):
        rave_mlx.load(out)
    assert directory.is_rave_directory(Path(out))
