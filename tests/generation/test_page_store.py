"""What was read of a page is found by the next process, and nothing else is ever taken for it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from rave_mlx.chat.jobs import make_job
from rave_mlx.chat.session import Session
from rave_mlx.config import GateConfig
from rave_mlx.config.linear_attention import LinearAttentionConfig
from rave_mlx.errors import UsageError
from rave_mlx.generation.page_folder import PageFolder, most_bytes
from rave_mlx.generation.page_store import PageStore
from rave_mlx.generation.prefill import prefill
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.generation.weights_identity import weights_digest
from tests.support import ask, model_rounding, picture, relative, tiny_model

GATED, PLAIN = tiny_model(GateConfig(rank=6)), tiny_model()
LINEAR = tiny_model(
    GateConfig(rank=6), linear=LinearAttentionConfig((0, 2), key_heads=2, value_heads=4, key_dim=8, value_dim=8)
)
"""Has a state in two of its layers, in the place of keys and values."""
PAGE, OTHER = picture(96, 64, 1), picture(96, 64, 2)
MOST = 1 << 30


@pytest.fixture
def folder(tmp_path) -> PageFolder:
    return PageFolder(tmp_path / "pages", MOST)


def answer(lmm, folder, question="What is it?", image=PAGE, policy=None, **options):
    """The ids of a new conversation's first answer, and its statistics."""
    pages = None if folder is None else PageStore(lmm, folder)
    session = Session(lmm, policy=policy, max_tokens=8, pages=pages, **options)
    return [piece.token for piece in session.send(question, [image])], session.stats


@pytest.mark.parametrize(
    ("lmm", "policy"),
    [
        (PLAIN, None),
        (LINEAR, None),
        *((GATED, p) for p in (None, "none", "panes+views", "guidance", "rave+var:cosine", "visiondrop")),
    ],
    ids=["plain", "states", "gated", "no gates", "panes+views", "guidance", "rave+var", "visiondrop"],
)
def test_answers_are_those_without(lmm, policy, folder):
    for question in ("What is it?", "And who wrote it, please?"):
        expected, _ = answer(lmm, None, question, policy=policy)
        for _ in range(2):
            found, stats = answer(lmm, folder, question, policy=policy)
            assert found == expected
    touched = policy in ("rave+var:cosine", "visiondrop")
    assert stats.stored_tokens == (0 if touched else stats.reused_tokens)
    assert (stats.stored_tokens == 0) == touched
    # Rereading policies look at other cuts of the page, which are not kept.
    assert stats.images_encoded == 0 or policy == "panes+views"


@pytest.mark.parametrize("lmm", [GATED, PLAIN], ids=["gated", "plain"])
def test_logits_after_a_kept_page(lmm, folder):
    prompt = lmm.prepare([ask("What is it?", PAGE)])
    store, cache = PageStore(lmm, folder), lmm.make_cache()
    expected = prefill(lmm, prompt, cache)
    store.keep(prompt, cache, 0)
    again = lmm.make_cache()
    end = PageStore(lmm, folder).begin(prompt, again, 0)
    assert end == again.length == int(np.flatnonzero(prompt.token_map.visual)[-1]) + 1
    assert again.visual_span == cache.visual_span
    assert relative(prefill(lmm, prompt, again, features={}), expected) < model_rounding(lmm, len(prompt))


def test_a_scheduler_finds_what_a_session_kept(folder):
    expected, _ = answer(GATED, None, "Who wrote it?")
    answer(GATED, folder, "What is it?")
    scheduler = Scheduler(GATED, rows=2, pages=PageStore(GATED, folder))
    jobs = [make_job(GATED, [ask(q, PAGE)], max_tokens=8) for q in ("Who wrote it?", "When?")]
    first, second = scheduler.run(jobs)
    assert list(first.ids) == expected
    assert first.reused >= 24
    assert second.reused >= first.reused


def test_states_are_found_by_a_scheduler(folder):
    expected, _ = answer(LINEAR, None, "Who wrote it?")
    answer(LINEAR, folder, "What is it?")
    jobs = [make_job(LINEAR, [ask(q, PAGE)], max_tokens=8) for q in ("Who wrote it?", "When?")]
    first, second = Scheduler(LINEAR, rows=2, pages=PageStore(LINEAR, folder)).run(jobs)
    assert list(first.ids) == expected
    assert first.reused >= 24
    assert second.reused >= 24


def test_a_session_finds_what_a_scheduler_kept(folder):
    scheduler = Scheduler(GATED, pages=PageStore(GATED, folder))
    list(scheduler.run([make_job(GATED, [ask("When?", PAGE)], max_tokens=4)]))
    found, stats = answer(GATED, folder)
    assert (found, stats.images_encoded) == (answer(GATED, None)[0], 0)
    assert stats.stored_tokens >= 24


def test_a_conversation_of_two_pages(folder):
    """The second page follows an answer; each page is found with what came before it."""
    for expected in ((0, 0), (26, 60)):
        session = Session(GATED, max_tokens=4, pages=PageStore(GATED, folder))
        stored = []
        for question, image in (("What is it?", PAGE), ("And this?", OTHER)):
            list(session.send(question, [image]))
            stored.append(session.stats.stored_tokens)
        assert all(a >= b for a, b in zip(stored, expected, strict=True))
        assert sum(stored) == 0 or expected != (0, 0)


def other_weights(name):
    """A gated model with one thing changed."""
    lmm = tiny_model(GateConfig(rank=6))
    if name == "gate":
        lmm.decoder.gates[1].W = lmm.decoder.gates[1].W * 1.01
    elif name == "embedding of a token":
        row = int(lmm.tokenizer.encode("What")[0][0])
        lmm.decoder.embed.weight[row, 3] += 0.5
    elif name == "bias":
        lmm.decoder.layers[2].attention.v_proj.bias[7] += 0.25
    elif name == "type":
        lmm.set_dtype(mx.bfloat16)
    elif name == "settings":
        text = replace(lmm.config.text, rope=replace(lmm.config.text.rope, theta=20000.0))
        lmm.config = replace(lmm.config, text=text)
    return lmm


@pytest.mark.parametrize("change", ["gate", "bias", "type", "settings"])
def test_another_model_finds_nothing(change, folder):
    answer(GATED, folder)
    lmm = other_weights(change)
    assert answer(lmm, folder)[1].stored_tokens == 0
    assert answer(lmm, folder)[1].stored_tokens > 0
    assert answer(GATED, folder)[1].stored_tokens > 0


def test_the_same_weights_elsewhere_find_it(folder):
    answer(GATED, folder)
    assert answer(tiny_model(GateConfig(rank=6)), folder)[1].stored_tokens > 0


def test_one_row_of_the_embedding_counts_where_its_token_is_read(folder):
    answer(GATED, folder, system="What?")
    lmm = other_weights("embedding of a token")
    assert answer(lmm, folder, system="What?")[1].stored_tokens == 0


@pytest.mark.parametrize(
    "options", [{"image": OTHER}, {"system": "Be brief."}, {"policy": "none"}, {"image_tokens": 12}],
    ids=["image", "system", "no gates", "size"],
)  # fmt: skip
def test_another_beginning_is_not_found(options, folder):
    answer(GATED, folder)
    assert answer(GATED, folder, **options)[1].stored_tokens == 0
    assert answer(GATED, folder, **options)[0] == answer(GATED, None, **options)[0]


def damaged(data: bytes, how: str) -> bytes:
    match how:
        case "cut":
            return data[:-7]
        case "empty":
            return b""
        case "flipped":
            return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
    return np.random.default_rng(0).bytes(len(data))


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "foreign", "swapped"])
def test_a_damaged_file_is_removed_and_changes_nothing(how, folder):
    expected, _ = answer(GATED, folder)
    answer(GATED, folder, image=OTHER)
    files = [file for file, _, _ in folder.entries()]
    assert len(files) == 4
    if how == "swapped":
        held = [file.read_bytes() for file in files]
        for file, data in zip(files, [held[-1], *held[:-1]], strict=True):
            file.write_bytes(data)
    else:
        for file in files:
            file.write_bytes(damaged(file.read_bytes(), how))
    found, stats = answer(GATED, folder)
    assert (found, stats.stored_tokens, stats.images_encoded) == (expected, 0, 1)
    assert answer(GATED, folder)[1].stored_tokens > 0


def test_only_the_owner_can_look(folder):
    old = os.umask(0)
    try:
        answer(GATED, folder)
        folder.folder.chmod(0o755)
        answer(GATED, folder, image=OTHER)
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file, _, _ in folder.entries()} == {0o600}


def test_a_folder_that_others_may_write_to_is_not_read(folder):
    folder.write("a", {"x": mx.zeros(4)})
    folder.folder.chmod(0o770)
    assert folder.read("a") is None
    folder.write("b", {"x": mx.zeros(4)})
    assert folder.read("b") is not None


def test_a_link_in_place_of_the_folder_is_left_alone(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pages").symlink_to(tmp_path / "elsewhere")
    folder = PageFolder(tmp_path / "pages", MOST)
    assert not folder.write("ab", {"x": mx.zeros(4)})
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_was_used_longest_ago_goes_first(tmp_path):
    def write(name):
        # A process of its own: one writes half of the limit at most.
        assert PageFolder(tmp_path, 10_000).write(name, {"x": mx.full((500,), 3.5)})

    for age, name in enumerate(("a", "b", "c", "d")):
        write(name)
        os.utime(tmp_path / f"{name}.page", (1000 + age, 1000 + age))
    assert np.asarray(PageFolder(tmp_path, 10_000).read("a")["x"]).tolist() == [3.5] * 500
    write("e")
    assert {file.stem for file, _, _ in PageFolder(tmp_path, 10_000).entries()} == {"a", "c", "d", "e"}
    assert sum(size for _, size, _ in PageFolder(tmp_path, 10_000).entries()) <= 10_000


def test_one_process_writes_half_of_the_limit(tmp_path):
    folder = PageFolder(tmp_path, 10_000)
    assert [folder.write(name, {"x": mx.zeros(500)}) for name in "abc"] == [True, True, False]


def test_what_a_killed_process_left_is_removed(tmp_path):
    for name, age in (("old.part", 7200), ("new.part", 0)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, ((tmp_path / name).stat().st_mtime - age,) * 2)
    PageFolder(tmp_path, MOST).write("a", {"x": mx.zeros(1)})
    assert {file.name for file in tmp_path.iterdir()} == {"a.page", "new.part"}


WRITE_AND_READ = """
import sys
from pathlib import Path
import mlx.core as mx
from rave_mlx.generation.page_folder import PageFolder
expected = mx.arange(50_000, dtype=mx.float32)
for _ in range(30):
    PageFolder(Path(sys.argv[1]), 1 << 30).write("same", {"x": expected})
    found = PageFolder(Path(sys.argv[1]), 1 << 30).read("same")
    assert found is not None and mx.array_equal(found["x"], expected)
"""


def test_two_processes_at_once(tmp_path):
    command = [sys.executable, "-c", WRITE_AND_READ, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["same.page"]


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16, mx.uint32])
def test_every_type_comes_back_to_the_bit(dtype, tmp_path):
    x = (mx.random.normal((3, 5, 7)) * 9).astype(dtype) if dtype != mx.uint32 else mx.arange(105).reshape(3, 5, 7)
    x = x.astype(dtype).swapaxes(0, 2)
    folder = PageFolder(tmp_path, MOST)
    assert folder.write("a", {"x": x})
    found = folder.read("a")["x"]
    assert found.dtype == dtype
    assert mx.array_equal(found, x)


@pytest.mark.parametrize(("text", "expected"), [("", 4096 << 20), ("0", 0), ("100", 100 << 20)])
def test_the_limit_of_the_environment(text, expected, monkeypatch):
    monkeypatch.setenv("RAVE_MLX_PAGE_CACHE", text)
    assert most_bytes() == expected


def test_a_limit_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("RAVE_MLX_PAGE_CACHE", "4GB")
    with pytest.raises(UsageError, match=r"RAVE_MLX_PAGE_CACHE is '4GB'; give the MiB"):
        most_bytes()


def test_sampled_values_come_from_every_column_and_are_few():
    lmm = tiny_model()
    before = weights_digest(lmm)
    weight = lmm.decoder.embed.weight
    assert weight.size > 8192
    lmm.decoder.embed.weight = weight + mx.where(mx.arange(weight.shape[1]) == 17, 1e-3, 0.0)
    assert weights_digest(lmm) != before
