"""Folders that lead elsewhere, hold what is no model's, or change while they are read; and runs that are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest
from command import rave_process
from families import cases, write_checkpoint
from hub_server import TOKEN, files_of, running

import rave_mlx
from rave_mlx.checkpoint import adapters, directory
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.convert import convert, export, fuse, plan
from rave_mlx.errors import ModelError, RaveError

SECRET = b'{"token": "of another user"}'


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = write_checkpoint(cases()["qwen2_5_vl"], tmp_path_factory.mktemp("original") / "hf")
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    (folder / "special_tokens_map.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def original_rave(original):
    return convert(original, original.parent / "rave")


@pytest.fixture
def checkpoint(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "hf"))


@pytest.fixture
def rave_folder(original_rave, tmp_path):
    return Path(shutil.copytree(original_rave, tmp_path / "rave"))


def lead_outside(file, tmp_path):
    """Put the file elsewhere, with a link in its place."""
    outside = tmp_path / "outside"
    outside.mkdir(exist_ok=True)
    place = outside / file.name
    file.rename(place) if file.exists() else place.write_bytes(SECRET)
    file.symlink_to(place)


def adapter(base, folder):
    """An adapter with one changed projection."""
    lmm = rave_mlx.load(base)
    config = AdapterConfig(rank=2, scale=1.0, modules=("decoder.layers.0.attention.q_proj",))
    adapters.attach(lmm, config)
    return adapters.save(lmm, config, folder)


READ = ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json",
        "special_tokens_map.json", "README.md"]  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_links_out_of_a_checkpoint_are_refused(checkpoint, tmp_path, name):
    lead_outside(checkpoint / name, tmp_path)
    out = tmp_path / "out"
    for run in (rave_mlx.load, lambda f: convert(f, out), plan):
        with pytest.raises(ModelError, match=rf"{name}: is a link to .*outside"):
            run(checkpoint)
    assert not out.exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "hub/config.json", "hub/tokenizer_config.json"])
def test_links_out_of_a_rave_directory_are_refused(rave_folder, tmp_path, name):
    lead_outside(rave_folder / name, tmp_path)
    for run in (
        rave_mlx.load,
        lambda f: export(f, tmp_path / "out"),
        lambda f: convert(f, tmp_path / "out", dtype="float16"),
    ):
        with pytest.raises(ModelError, match=rf"{Path(name).name}: is a link to .*outside"):
            run(rave_folder)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_configurations_that_is_a_link(rave_folder, tmp_path):
    lead_outside(rave_folder / "hub", tmp_path)
    with pytest.raises(ModelError, match="hub: is a link to"):
        export(rave_folder, tmp_path / "out")


def test_a_chain_of_links_and_a_link_to_nowhere(checkpoint, tmp_path):
    lead_outside(checkpoint / "model.safetensors", tmp_path)
    (checkpoint / "model.safetensors").rename(checkpoint / "inner.safetensors")
    (checkpoint / "model.safetensors").symlink_to("inner.safetensors")
    with pytest.raises(ModelError, match="is a link to .*outside"):
        rave_mlx.load(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "inner.safetensors").unlink()
    (checkpoint / "model.safetensors").symlink_to(tmp_path / "nothing")
    with pytest.raises(ModelError, match="is a link to .*nothing"):
        rave_mlx.load(checkpoint)


def test_links_within_a_checkpoint_and_to_it_are_fine(checkpoint, tmp_path):
    (checkpoint / "model.safetensors").rename(checkpoint / "weights.bin-1")
    (checkpoint / "model.safetensors").symlink_to("weights.bin-1")
    (tmp_path / "link").symlink_to(checkpoint)
    rave_mlx.load(tmp_path / "link")


def test_the_hubs_cache_consists_of_links(checkpoint, tmp_path):
    cache = tmp_path / "models--maker--tiny"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for i, file in enumerate(checkpoint.iterdir()):
        file.rename(cache / "blobs" / str(i))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(i))
    assert convert(snapshot, tmp_path / "out").is_dir()
    # A link that leaves the cache is one, whatever the folder is called.
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(original_config := tmp_path / "config.json")
    shutil.copy(tmp_path / "out" / "hub" / "config.json", original_config)
    with pytest.raises(ModelError, match="is a link to"):
        rave_mlx.load(snapshot)


def test_what_was_not_parsed_is_not_copied(checkpoint, rave_folder, tmp_path):
    for folder in (checkpoint, rave_folder, rave_folder / "hub"):
        for name in ("id_rsa", "notes.txt", "more.json", "training_args.bin", ".env"):
            (folder / name).write_bytes(SECRET)
    (rave_folder / "hub" / "folder").mkdir()
    outs = [
        convert(checkpoint, tmp_path / "a"),
        convert(rave_folder, tmp_path / "b", dtype="float16"),
        export(rave_folder, tmp_path / "c"),
        fuse(rave_folder, adapter(rave_folder, tmp_path / "adapter"), tmp_path / "d"),
    ]
    for out in outs:
        assert SECRET not in files_of(out).values(), out
    assert set(files_of(outs[2])) == set(files_of(checkpoint)) - {
        "id_rsa", "notes.txt", "more.json", "training_args.bin", ".env"
    }  # fmt: skip


@pytest.mark.parametrize("content", [b"\x00\xff not text", b"[1, 2]", b"{"])
def test_a_configuration_that_is_none_is_not_copied(checkpoint, rave_folder, tmp_path, content):
    (checkpoint / "video_preprocessor_config.json").write_bytes(content)
    (rave_folder / "hub" / "video_preprocessor_config.json").write_bytes(content)
    for run in (lambda: convert(checkpoint, tmp_path / "out"), lambda: export(rave_folder, tmp_path / "out")):
        with pytest.raises(RaveError, match="video_preprocessor_config.json: (not valid JSON|expected a JSON object)"):
            run()
    assert not (tmp_path / "out").exists()


def test_push_uploads_the_model_and_nothing_else(rave_folder, tmp_path):
    expected = files_of(rave_folder)
    for name in ("notes.txt", "hub/id_rsa", "more.json", ".cache.json"):
        (rave_folder / name).write_bytes(SECRET)
    with running() as hub:
        environment = hub.environment(tmp_path / "home", TOKEN)
        done = rave_process("convert", rave_folder, "--push", "me/tiny", **environment)
        assert done.returncode == 0, done.stderr
        found = {n: c for n, c in hub.repos["me/tiny"].files.items() if n != ".gitattributes"}
        assert found == expected
        lead_outside(rave_folder / "README.md", tmp_path)
        done = rave_process("convert", rave_folder, "--push", "me/other", **environment)
        assert done.returncode == 1
        assert "README.md: is a link to" in done.stderr
        assert "me/other" not in hub.repos


def change(file):
    """The kinds of change that leave a file readable."""

    def larger():
        file.write_bytes(file.read_bytes() + b"\n")

    def replaced():
        other = file.with_name("other")
        shutil.copy2(file, other)
        other.replace(file)

    def touched():
        os.utime(file, ns=(1, 1))

    return {"larger": larger, "replaced": replaced, "touched": touched, "gone": file.unlink}


@pytest.mark.parametrize("kind", ["larger", "replaced", "touched", "gone"])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_source_that_changes_is_noticed(checkpoint, rave_folder, tmp_path, kind, name):
    def spoil(file):
        done = []

        def once(written, total):
            if not done:
                done.append(change(file)[kind]())

        return once

    out = tmp_path / "out"
    with pytest.raises(ModelError, match="changed while being read|cannot be written|cannot be read"):
        convert(checkpoint, out, progress=spoil(checkpoint / name))
    with pytest.raises(ModelError, match="changed while being read|cannot be written|cannot be read"):
        lora = adapter(rave_folder, tmp_path / "adapter")
        fuse(rave_folder, lora, out, progress=spoil(rave_folder / name))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "hf", "rave"]


def test_a_settings_file_that_appears_is_noticed_and_other_files_do_not_matter(checkpoint, tmp_path):
    with pytest.raises(ModelError, match="preprocessor_config.json.* changed while being read"):
        convert(
            checkpoint, tmp_path / "out",
            progress=lambda *_: (checkpoint / "video_preprocessor_config.json").write_text("{}"),
        )  # fmt: skip
    convert(checkpoint, tmp_path / "out", progress=lambda *_: (checkpoint / "train.log").write_text("step"))


SLOW = """
import sys, time
from rave_mlx import convert as c
def wait(*_):
    print("writing", flush=True)
    time.sleep(60)
source, out, adapter, kind = sys.argv[1:]
if kind == "convert":
    c.convert(source, out, progress=wait)
elif kind == "fuse":
    c.fuse(source, adapter, out, progress=wait)
else:
    from rave_mlx.convert import exporting
    write = exporting.write_files
    exporting.write_files = lambda *a, **k: write(*a, **k, progress=wait)
    c.export(source, out)
"""


@pytest.mark.parametrize("kind", ["convert", "fuse", "export"])
def test_what_a_killed_run_leaves_the_next_one_removes(checkpoint, rave_folder, tmp_path, kind):
    lora = adapter(rave_folder, tmp_path / "adapter")
    source = checkpoint if kind == "convert" else rave_folder
    place = tmp_path / "place"
    place.mkdir()

    def start(name):
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW, source, place / name, lora, kind], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "writing\n"
        return process

    killed, alive = start("out"), start("other")
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        left = {p.name for p in place.iterdir()}
        assert len(left) == 2
        (place / ".notes.rave-partial").write_text("a file of somebody's")
        (place / ".link.x.rave-partial").symlink_to(tmp_path)
        convert(checkpoint, place / "out")
        now = {p.name for p in place.iterdir()}
        # What the live one writes stays, and so does what is no folder.
        assert len(now & left) == 1
        assert next(iter(now & left)).startswith(".other.")
        assert now - left == {"out", ".notes.rave-partial", ".link.x.rave-partial"}
        assert (tmp_path / "adapter").is_dir()
    finally:
        alive.kill()
        alive.wait()
    convert(checkpoint, place / "another")
    assert {p.name for p in place.iterdir()} == {"out", "another", ".notes.rave-partial", ".link.x.rave-partial"}


def test_an_interrupt_leaves_nothing(checkpoint, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, checkpoint, tmp_path / "out", "", "convert"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "writing\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.wait(30)
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_weights_that_are_no_numbers_do_not_open(checkpoint, tmp_path, capsys):
    tensors = {n: x + 0 for n, x in mx.load(str(checkpoint / "model.safetensors")).items()}
    mx.eval(tensors)
    name = next(n for n in tensors if "layers.0.mlp.down_proj" in n)
    for value in (mx.nan, mx.inf, -mx.inf):
        tensors[name][0, 0] = value
        mx.save_safetensors(str(checkpoint / "model.safetensors"), tensors)
        with pytest.raises(ModelError, match=r"NaN or infinite weights in decoder\.layers\.0\.mlp\.down_proj\.weight"):
            rave_mlx.load(checkpoint)
    # The conversion keeps them and says so; what it wrote does not open either.
    lines = []
    out = convert(checkpoint, tmp_path / "out", note=lines.append)
    assert "decoder.layers.0.mlp.down_proj.weight" in lines[0]
    with pytest.raises(ModelError, match="NaN or infinite weights"):
        rave_mlx.load(out)
    # Too large for the type that is asked for.
    tensors[name][0, 0] = 70000.0
    mx.save_safetensors(str(checkpoint / "model.safetensors"), tensors)
    rave_mlx.load(checkpoint)
    with pytest.raises(ModelError, match="too large for the type"):
        rave_mlx.load(checkpoint, dtype="float16")
    # A row of an embedding hurts only when its token is read.
    tensors[name][0, 0] = 0.0
    tensors[next(n for n in tensors if "embed_tokens" in n)][200, 0] = mx.nan
    mx.save_safetensors(str(checkpoint / "model.safetensors"), tensors)
    capsys.readouterr()
    rave_mlx.load(checkpoint)
    assert "warning: " in (said := capsys.readouterr().err)
    assert "decoder.embed.weight" in said
    assert not json.loads((checkpoint / "config.json").read_text()).get("tie_word_embeddings")
    assert directory.is_rave_directory(out)
