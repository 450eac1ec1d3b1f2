"""Models from and to a Hub: the real client and the real command line against a Hub on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from families import cases, write_checkpoint
from hub_server import LFS_BYTES, TOKEN, Repo, files_of, running
from safetensors.numpy import load_file, save_file

from rave_mlx.checkpoint import directory
from rave_mlx.convert import convert

NAME = "maker/tiny-vl"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(cases()["qwen2_5_vl"], tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def files(checkpoint):
    """The checkpoint in two shards, with everything around it that repositories have."""
    tensors = load_file(checkpoint / "model.safetensors")
    names = sorted(tensors)
    half = len(names) // 2
    found = files_of(checkpoint)
    del found["model.safetensors"]
    parts = {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
    for file, part in parts.items():
        save_file({n: tensors[n] for n in part}, checkpoint.parent / "part", {"format": "pt"})
        found[file] = (checkpoint.parent / "part").read_bytes()
        assert len(found[file]) > LFS_BYTES
    weight_map = {name: file for file, part in parts.items() for name in part}
    found["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return found | {
        "README.md": b"---\nlicense: other\nlicense_name: tiny-research\n---\n# Tiny\n",
        "consolidated.safetensors": b"\0" * LFS_BYTES, "pytorch_model.bin": b"\x80\x02" * LFS_BYTES,
        "page.png": b"png", "onnx/config.json": b"{}", "original/model.safetensors": b"\0" * LFS_BYTES,
    }  # fmt: skip


def rave(hub, home, *arguments, token=None, **environment):
    return subprocess.run(
        [sys.executable, "-c", "from rave_mlx.cli.main import run; run()", *map(str, arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"COLUMNS": "200"} | hub.environment(home, token) | environment,
    )  # fmt: skip


def check_one_line(done, *parts):
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    # The client may log what it tries again; the last line is ours.
    line = done.stderr.splitlines()[-1]
    assert line.startswith("rave-mlx: ")
    assert all(part in line for part in parts), line


def test_only_what_is_needed_is_fetched_and_converts_like_the_folder(checkpoint, files, tmp_path):
    with running(maker__tiny_vl=Repo({})) as hub:
        hub.repos = {NAME: Repo(files)}
        done = rave(hub, tmp_path / "home", "convert", NAME, tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{tmp_path / 'out'}\n"
        fetched = hub.fetched(NAME)
    needed = {"config.json", "tokenizer.json", "chat_template.jinja", "preprocessor_config.json", "README.md",
              "model.safetensors.index.json", "model-00001-of-00002.safetensors",
              "model-00002-of-00002.safetensors"}  # fmt: skip
    assert fetched == needed
    convert(checkpoint, tmp_path / "local")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "local" / "model.safetensors"
    ).read_bytes()
    card = (tmp_path / "out" / "README.md").read_text()
    commit = Repo(files).at("main")[0]
    assert f'base_model: "{NAME}"' in card
    assert f"at commit `{commit}`" in card
    assert 'license_name: "tiny-research"' in card
    for name in needed - {"README.md", "model.safetensors.index.json"}:
        assert f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" in card


def test_the_cache_serves_again_and_offline(files, tmp_path):
    with running() as hub:
        hub.repos = {NAME: Repo(files)}
        assert rave(hub, tmp_path / "home", "convert", NAME, tmp_path / "one").returncode == 0
        first = len(hub.log)
        assert rave(hub, tmp_path / "home", "convert", NAME, tmp_path / "two").returncode == 0
        assert not any(s.method == "GET" and ("/resolve/" in s.path or "/cdn/" in s.path) for s in hub.log[first:])
        again = len(hub.log)
        done = rave(hub, tmp_path / "home", "convert", NAME, tmp_path / "three", HF_HUB_OFFLINE="1")
        assert (done.returncode, len(hub.log)) == (0, again), done.stderr
        check_one_line(
            rave(hub, tmp_path / "empty", "convert", NAME, tmp_path / "four", HF_HUB_OFFLINE="1"),
            "it is not in the local cache", "unset HF_HUB_OFFLINE",
        )  # fmt: skip
    done = rave(hub, tmp_path / "home", "convert", NAME, tmp_path / "five")
    assert done.returncode == 0, done.stderr
    check_one_line(rave(hub, tmp_path / "empty", "convert", NAME, tmp_path / "six"), "the Hub cannot be reached")


def test_a_broken_connection_resumes_with_a_range(tmp_path):
    """The client keeps what came in blocks of 10 MiB, so the file is larger."""
    case = cases()["qwen2_5_vl-tied"]
    text = case.config["text_config"] | {"vocab_size": 90_000}
    folder = write_checkpoint(replace(case, config=case.config | {"text_config": text}), tmp_path / "checkpoint")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.language_model.embed_tokens.weight"] = np.zeros((90_000, 64), np.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    files = files_of(folder)
    whole, kept = len(files["model.safetensors"]), 10 << 20
    with running() as hub:
        hub.repos = {NAME: Repo(files)}
        hub.cut["model.safetensors"] = 3 * whole // 4
        done = rave(hub, tmp_path / "home", "convert", NAME, tmp_path / "out")
        assert done.returncode == 0, done.stderr
        transfers = [s for s in hub.log if s.path.startswith("/cdn/") and s.method == "GET"]
    assert [(s.status, s.range, s.sent) for s in transfers] == [
        (200, None, 3 * whole // 4),
        (206, f"bytes={kept}-", whole - kept),
    ]
    convert(folder, tmp_path / "local")
    assert files_of(tmp_path / "out")["model.safetensors"] == files_of(tmp_path / "local")["model.safetensors"]


def test_revisions_and_moved_models(files, tmp_path):
    changed = dict(files)
    changed["generation_config.json"] = b'{"eos_token_id": [2, 1]}'
    with running() as hub:
        hub.repos = {NAME: Repo(files, refs={"v2": changed})}
        hub.moved = {"former/tiny": NAME}
        for revision, stop in (("v2", (2, 1)), (Repo(changed).at("main")[0], (2, 1)), ("main", (2,))):
            out = tmp_path / revision
            done = rave(hub, tmp_path / "home", "convert", NAME, out, "--revision", revision)
            assert done.returncode == 0, done.stderr
            assert directory.read_config(out).tokens.stop == stop
        check_one_line(
            rave(hub, tmp_path / "home", "convert", NAME, tmp_path / "out", "--revision", "v3"), "no revision 'v3'"
        )
        done = rave(hub, tmp_path / "home", "convert", "former/tiny", tmp_path / "moved")
        assert done.returncode == 0, done.stderr


def test_access(files, tmp_path):
    def get(name, **options):
        return rave(hub, tmp_path / "home", "convert", name, tmp_path / "out", **options)

    with running() as hub:
        hub.repos = {NAME: Repo(files, private=True), "maker/gated": Repo(files, gated=True)}
        check_one_line(get(NAME), NAME, "no such model, or it is private", "hf auth login")
        check_one_line(get("maker/nothing"), "maker/nothing", "check the name")
        check_one_line(get("maker/nothing", token=TOKEN), "maker/nothing", "check the name")
        check_one_line(get("maker/gated", token=TOKEN), "accept terms")
        check_one_line(get(NAME, token="hf_wrong"), NAME, "401")
        hub.broken = [f"/api/models/{NAME}"]
        check_one_line(get(NAME, token=TOKEN), NAME)
        hub.broken = []
        done = get(NAME, token=TOKEN)
        assert done.returncode == 0, done.stderr
        elsewhere = [s for s in hub.log if s.path.startswith("/cdn/")]
        assert elsewhere
        assert {s.token for s in elsewhere} == {None}


@pytest.mark.parametrize(
    ("keep", "error"),
    [
        (lambda n: not n.endswith(".safetensors") and "index" not in n, "only pickled weights (pytorch_model.bin)"),
        (lambda n: not n.endswith((".safetensors", ".bin")) and "index" not in n, "no *.safetensors files"),
        (lambda n: n != "model-00002-of-00002.safetensors", "1 of 2 weight files are missing: model-00002"),
        (lambda n: n != "config.json", "has no config.json"),
    ],
)
def test_repositories_that_are_no_model(files, tmp_path, keep, error):
    with running() as hub:
        hub.repos = {NAME: Repo({n: c for n, c in files.items() if keep(n)})}
        check_one_line(rave(hub, tmp_path / "home", "convert", NAME, tmp_path / "out"), error)
        assert not any(s.path.startswith("/cdn/") and "pytorch" in s.path for s in hub.log)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_fetches_headers_only(files, tmp_path):
    with running() as hub:
        hub.repos = {NAME: Repo(files)}
        done = rave(hub, tmp_path / "home", "convert", NAME, "--dry-run")
        assert done.returncode == 0, done.stderr
        assert f"source         {NAME} at {Repo(files).at('main')[0]}" in done.stdout
        assert "family         qwen2_5_vl" in done.stdout
        ranges = [s.range for s in hub.log if s.path.startswith("/cdn/")]
        assert ranges == ["bytes=0-100000"] * 2
        local = rave(hub, tmp_path / "home", "convert", NAME, tmp_path / "out")
        assert local.returncode == 0


def test_push_uploads_the_directory_and_it_comes_back(checkpoint, files, tmp_path):
    with running() as hub:
        hub.repos = {NAME: Repo(files)}
        done = rave(
            hub, tmp_path / "home", "convert", NAME, tmp_path / "out", "--push", "me/tiny-rave", token=TOKEN
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith(f"{hub.address}/me/tiny-rave/commit/")
        stored = {n: c for n, c in hub.repos["me/tiny-rave"].files.items() if n != ".gitattributes"}
        assert stored == files_of(tmp_path / "out")
        assert len(hub.uploads) >= 1
        # Again, from the directory alone: nothing has changed.
        done = rave(hub, tmp_path / "home", "convert", tmp_path / "out", "--push", "me/tiny-rave", token=TOKEN)
        assert done.returncode == 0, done.stderr
        code = (
            f"import rave_mlx, numpy as np; lmm = rave_mlx.load('me/tiny-rave');"
            f"from rave_mlx.convert.exporting import export; export(lmm.path, {str(tmp_path / 'exported')!r});"
            f"np.save({str(tmp_path / 'logits.npy')!r}, lmm.logits(lmm.prepare([{{'role': 'user', 'content': 'Hi'}}])))"
        )
        subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | hub.environment(tmp_path / "other"))
    import rave_mlx

    assert json.loads((tmp_path / "exported" / "config.json").read_text()) == json.loads(files["config.json"])
    lmm = rave_mlx.load(checkpoint)
    expected = np.array(lmm.logits(lmm.prepare([{"role": "user", "content": "Hi"}])))
    assert (np.load(tmp_path / "logits.npy") == expected).all()


def test_push_refuses_before_the_work_what_cannot_be_done(checkpoint, tmp_path):
    def push(name, *, source=checkpoint, out=tmp_path / "out", **options):
        arguments = [source, *([out] if out else []), "--push", name]
        return rave(hub, tmp_path / "home", "convert", *arguments, **options)

    with running() as hub:
        check_one_line(push("me/tiny"), "me/tiny", "hf auth login")
        check_one_line(push("me/tiny", token=TOKEN, HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE")
        done = push("tiny", token=TOKEN)
        assert (done.returncode, "OWNER/NAME" in done.stderr) == (2, True)
        check_one_line(push("me/tiny", token=TOKEN, out=None), "is not a rave directory")
        assert hub.log == []
        assert not (tmp_path / "out").exists()
        done = push("others/tiny", token=TOKEN)
        assert done.returncode == 1
        assert "others/tiny" in done.stderr.splitlines()[-1]
        assert "403" in done.stderr.splitlines()[-1]
        # The work is kept; the upload can be tried again.
        assert directory.is_rave_directory(tmp_path / "out")
