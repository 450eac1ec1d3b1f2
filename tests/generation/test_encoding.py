"""Images through the vision tower together: the numbers of one by one, groups, and who makes them."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from families import cases, write_checkpoint
from support import ask, picture, relative, tiny_model

import rave_mlx
from rave_mlx.chat.session import Session
from rave_mlx.generation.encoding import PATCHES, encode, encode_group, encode_missing, group
from rave_mlx.generation.job import Job
from rave_mlx.generation.page_folder import PageFolder
from rave_mlx.generation.page_store import PageStore
from rave_mlx.generation.scheduler import Scheduler

TOGETHER = ["qwen2_5_vl", "qwen2_vl", "qwen3_vl", "pixtral", "internvl", "idefics3", "llava_next", "llava_onevision",
            "got_ocr2", "granite_docling"]  # fmt: skip
ALONE = ["deepseek_ocr2", "gemma4-vision"]


def images_of(lmm, *pictures):
    return [lmm.prepare([ask("Total?", each)]).images[0] for each in pictures]


@pytest.fixture(scope="module")
def lmm():
    return tiny_model()


@pytest.fixture
def towers(monkeypatch):
    """How many images each pass of a tower has, as they come."""
    counts = []

    def counted(lmm, images):
        counts.append(len(images))
        return encode_group(lmm, images)

    monkeypatch.setitem(PATCHES, "cpu", 1 << 14)
    for module in ("encoding", "prefill"):
        monkeypatch.setattr(f"rave_mlx.generation.{module}.encode_group", counted)
    return counts


@pytest.mark.parametrize("name", [*TOGETHER, *ALONE])
def test_features_are_those_of_one_by_one(name, tmp_path):
    """Of three pages of one size and one of another; products over more rows add in another order."""
    lmm = rave_mlx.load(write_checkpoint(cases()[name], tmp_path))
    pages = images_of(lmm, *(picture(100, 60, seed) for seed in range(3)), picture(60, 100, 3))
    pages = list({page.digest: page for page in pages}.values())
    first = group(lmm, pages, patches=1 << 20)
    assert len(first) >= 3 if name in TOGETHER else len(first) == 1
    for image, together in zip(first, encode_group(lmm, first), strict=True):
        assert relative(together, np.array(lmm.features(image))) < 2e-6
    assert len({np.array(x).tobytes() for x in encode_group(lmm, first)}) == len(first), "no image stands for another"


def test_groups_are_bounded_and_have_one_form(lmm):
    small = images_of(lmm, *(picture(96, 64, seed) for seed in range(5)))
    size = len(small[0].pixels)
    (other,) = images_of(lmm, picture(64, 96, 9))
    mixed = [small[0], other, small[0], *small[1:]]
    assert [len(group(lmm, mixed, n * size)) for n in (0, 1, 2, 4, 9)] == [1, 1, 2, 4, 5]
    assert group(lmm, mixed, 3 * size) == small[:3], "in order, each once"
    assert group(lmm, [other, *small], 9 * size) == [other]
    assert PATCHES["cpu"] < PATCHES["metal"]


def test_each_missing_image_is_encoded_once(lmm, towers):
    pages = images_of(lmm, picture(96, 64, 0), picture(64, 96, 1), picture(96, 64, 0), picture(96, 64, 2))
    features: dict[str, mx.array] = {}
    encode_missing(lmm, pages, features)
    encode_missing(lmm, pages, features)
    assert towers == [2, 1]
    assert all(relative(features[page.digest], np.array(encode(lmm, page))) < 2e-6 for page in pages)


def test_images_of_a_prompt_and_of_those_that_wait(lmm, towers, tmp_path):
    """Pages of three questions, two of one size in the first: one pass for them, and answers as alone."""
    pages = [picture(96, 64, seed) for seed in range(4)]
    asked = [ask("Which?", *pages[:2]), ask("Date?", pages[2]), ask("Who?", picture(64, 96)), ask("Sum?", pages[3])]
    jobs = [Job(lmm.prepare([each]), max_tokens=6, ends_loops=False) for each in asked]
    alone = [next(iter(Scheduler(lmm, rows=1).run([job]))).ids for job in jobs]
    assert towers == [2, 1, 1, 1]
    towers.clear()
    store = PageStore(lmm, PageFolder(tmp_path, 1 << 26))
    together = Scheduler(lmm, rows=4, pages=store)
    for job in jobs:
        together.add(job)
    answers = {}
    while together.is_busy:
        answers.update({event.ticket: event.answer for event in together.step() if event.answer is not None})
    assert [answers[ticket].ids for ticket in sorted(answers)] == alone
    assert towers == [4, 1]
    assert all(store.has_features(image) for job in jobs for image in job.prompt.images), "those that waited as well"


def test_nothing_is_made_ahead_that_is_not_kept(lmm, towers):
    jobs = [Job(lmm.prepare([ask("Date?", picture(96, 64, seed))]), max_tokens=4) for seed in range(3)]
    scheduler = Scheduler(lmm, rows=3, prefix_bytes=0)
    for job in jobs:
        scheduler.add(job)
    while scheduler.is_busy:
        scheduler.step()
    assert towers == [1, 1, 1]


def test_images_of_a_conversation(lmm, towers):
    session = Session(lmm, max_tokens=2)
    list(session.send("Which?", [picture(96, 64, seed) for seed in range(3)]))
    assert towers == [3]
    assert session.stats.images_encoded == 3
