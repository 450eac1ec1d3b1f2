"""Tiled crops: what is cut, how sure an answer is, and that the surest one is what a model reads."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import rave
from families import cases, write_checkpoint
from PIL import Image, ImageFilter
from policy_watch import softmax
from support import form, picture, tiny_model

import rave_mlx
from rave_mlx.chat.session import Session
from rave_mlx.config import GateConfig
from rave_mlx.errors import UsageError
from rave_mlx.generation.decode import continued
from rave_mlx.inputs.prompt.message import ImagePart, Message, TextPart
from rave_mlx.policies.parse import Steering, steering
from rave_mlx.policies.rereading import tiled_crops
from rave_mlx.policies.rereading.answer_attention import answer_attention
from rave_mlx.policies.rereading.crop_grid import grid, has_ink, ink, panes, printed, strips
from rave_mlx.policies.rereading.crops import is_reduced, reading_scale
from rave_mlx.policies.rereading.first_look import FirstLook
from rave_mlx.policies.rereading.found_words import FoundWords
from rave_mlx.policies.rereading.multi_scale import MultiScale
from rave_mlx.policies.rereading.page_maps import share_inside
from rave_mlx.policies.rereading.tiled_crops import Answer, TiledCrops, answer, found_something
from rave_mlx.synthetic import PageConfig, make

RECEIPT = Path(__file__).parents[2] / "examples" / "documents" / "receipt.png"


@pytest.fixture(scope="module")
def lmm():
    return tiny_model(GateConfig(rank=4, kv_groups=0.5))


# What is cut


@pytest.mark.parametrize("seed", range(30))
def test_a_grid_covers_its_box_and_repeats_what_it_shall(seed):
    rng = np.random.default_rng(seed)
    left, top = rng.integers(0, 200, 2)
    width, height = rng.integers(1, 1500, 2)
    side, high = (int(n) for n in rng.integers(20, 500, 2))
    overlap = float(rng.choice([0, 0.25, 0.5, 0.9]))
    boxes = grid((left, top, left + width, top + height), (side, high), overlap)
    seen = np.zeros((top + height, left + width), int)
    for x0, y0, x1, y1 in boxes:
        assert (x1 - x0, y1 - y0) == (min(side, width), min(high, height))
        seen[y0:y1, x0:x1] += 1
    assert seen[top:, left:].min() >= 1
    assert seen[:top].sum() + seen[:, :left].sum() == 0
    columns = sorted({box[0] for box in boxes})
    steps = np.diff(columns)
    assert (steps <= side * (1 - overlap) + 1).all()
    # One column fewer would not do.
    fewer = len(columns) - 2
    assert len(columns) == 1 or fewer * max(1, side * (1 - overlap)) < width - side


def test_shadow_and_noise_are_not_ink():
    rng = np.random.default_rng(0)
    slope = np.linspace(255, 120, 400)[None] * np.ones((300, 1))
    paper = (slope + rng.normal(0, 5, slope.shape)).clip(0, 255).astype(np.uint8)
    assert not ink(paper).any()
    assert printed(ink(paper), (400, 300)) is None
    paper[203, 333] = 0
    marks = ink(paper)
    assert np.argwhere(marks).tolist() == [[203 // 16, 333 // 16]]
    assert printed(marks, (400, 300)) == (320 - 8, 192 - 8, 336 + 8, 208 + 8)
    assert has_ink(marks, (300, 200, 340, 210))
    assert not has_ink(marks, (0, 0, 320, 300))
    paper[:, 399] = 0
    assert printed(ink(paper), (400, 300)) == (312, 0, 400, 300)


def test_a_small_block_on_a_large_page_is_one_pane_of_its_own_pixels(lmm):
    page = Image.new("RGB", (1500, 1900), (250, 250, 250))
    block = form(["Total: 12.40", "Date: 3 May"])
    page.paste(block, (900, 1200))
    part = Session(lmm, policy=TiledCrops(), image_tokens=600).read(page)
    ((pane, box),) = panes(part, part.original, lmm.config.image, most=16, overlap=0.3)
    assert (box[0] < 900, box[1] < 1200, box[2] > 900, box[3] > 1200) == (True,) * 4
    assert pane.patches.size[0] < 300
    assert not is_reduced(pane.patches, lmm.config.image)


@pytest.mark.parametrize("most", [1, 2, 5, 64])
def test_there_are_no_more_panes_than_asked_for_and_none_when_that_shows_nothing_more(lmm, most):
    page = picture(700, 500)
    part = Session(lmm, policy=TiledCrops(), image_tokens=256).read(page)
    found = [pane.image for pane in panes(part, part.original, lmm.config.image, most=most, overlap=0.25)]
    assert len(found) <= most
    assert bool(found) == (most > 1)
    reads = reading_scale(part.patches, lmm.config.image)
    for pane in found:
        assert pane.patches.tokens <= 256
        assert reading_scale(pane.patches, lmm.config.image) > 0.9  # cut from a copy that is read in full
    if most == 64:
        whole = part.patches.tokens / reads**2
        assert sum(pane.patches.tokens for pane in found) >= whole  # at full size, with overlaps


@pytest.mark.parametrize("most", [1, 3, 9, 64])
def test_strips_are_as_wide_as_what_is_printed_and_cover_it(lmm, most):
    page = Image.new("RGB", (760, 620), "white")
    page.paste(picture(620, 500), (70, 60))
    part = Session(lmm, policy=TiledCrops(), image_tokens=900).read(page)
    left, top, right, bottom = printed(ink(np.asarray(page.convert("L"))), page.size)
    found = [strip.image for strip in strips(part, part.original, lmm.config.image, most=most, overlap=0.25)]
    assert len(found) <= most
    assert bool(found) == (most > 1)
    for strip in found:
        assert strip.original.picture.width == right - left
        assert strip.patches.tokens <= 900
        assert reading_scale(strip.patches, lmm.config.image) > 0.9
    if most == 64:
        high = {strip.patches.size[1] for strip in found}
        assert len(high) == 1
        # Every row of the original stands in one of them, in order.
        rows = [np.asarray(page.convert("RGB"))[top:bottom, left:right][y : y + max(high)] for y in range(bottom - top)]
        shown = [np.asarray(strip.original.picture) for strip in found]
        starts = [next(y for y, row in enumerate(rows) if np.array_equal(row, strip)) for strip in shown]
        assert starts[0] == 0
        assert starts[-1] + max(high) == bottom - top
        assert max(np.diff(starts)) <= 0.75 * max(high) + 1


def test_strips_of_a_page_too_wide_for_one_row_are_cut_from_a_smaller_copy(lmm):
    part = Session(lmm, policy=TiledCrops(), image_tokens=64).read(picture(3000, 500))
    found = [strip.image for strip in strips(part, part.original, lmm.config.image, most=16, overlap=0.3)]
    assert 1 < len(found) <= 16
    assert all(strip.patches.tokens <= 64 for strip in found)
    assert {strip.original.picture.width for strip in found} == {3000}


def test_a_page_as_narrow_as_a_square_needs_no_strips(lmm):
    part = Session(lmm, policy=TiledCrops(), image_tokens=900).read(picture(220, 900))
    assert panes(part, part.original, lmm.config.image, most=16, overlap=0.3)
    assert strips(part, part.original, lmm.config.image, most=16, overlap=0.3) == []


# How sure an answer is


@pytest.mark.parametrize("gate", [True, False])
def test_certainty_is_the_least_probability_of_a_whole_pass(lmm, gate):
    session = Session(lmm, policy="rave" if gate else "none", max_tokens=7)
    part = session.read(picture(96, 64))
    messages = [Message("user", (part, TextPart("What is the total?")))]
    found = answer(lmm, messages, tokens=7, gate=gate, features={})
    ids = [piece.token for piece in session.answer([{"role": "user", "content": [
        {"type": "image", "image": picture(96, 64)}, {"type": "text", "text": "What is the total?"}]}])]  # fmt: skip
    prompt = lmm.prompt(messages)
    logits = np.array(lmm.logits(continued(prompt, ids), gate=gate))[0].astype(np.float64)
    chances = [softmax(logits[len(prompt) - 1 + i])[token] for i, token in enumerate(ids)]
    assert found.certainty == pytest.approx(min(chances), rel=1e-4)
    assert found.text == lmm.tokenizer.decode([i for i in ids if i not in lmm.config.tokens.stop])


def revised(session: Session, question: str, *images: ImagePart) -> list[ImagePart]:
    (policy,) = session.policy.policies
    messages = policy.revise(session.lmm, [Message("user", (*images, TextPart(question)))], session.policy.gate, {})
    return [part for part in messages[0].parts if isinstance(part, ImagePart)]


def by_hand(session: Session, question: str, part: ImagePart, policy: TiledCrops) -> ImagePart:
    """The candidate whose answer is surest, from one conversation each."""
    config, cut = session.lmm.config.image, {"most": policy.most, "overlap": policy.overlap}
    parts = [*panes(part, part.original, config, **cut), *strips(part, part.original, config, **cut)]
    candidates = [part, *(each.image for each in parts)]
    best, sure = part, -1.0
    for each in candidates:
        messages = [Message("user", (each, TextPart(question)))]
        given = answer(session.lmm, messages, tokens=policy.tokens, gate=session.policy.gate, features={})
        if found_something(given, policy) and given.certainty > sure:
            best, sure = each, given.certainty
    return best


@pytest.mark.parametrize("seed", range(2))
def test_the_surest_answer_decides(lmm, seed):
    policy = TiledCrops(sure=2.0, tokens=5, reads=16)
    session = Session(lmm, policy=[policy], image_tokens=100)
    part = session.read(picture(300, 260, seed))
    (found,) = revised(session, "What is the total?", part)
    assert found.patches.digest == by_hand(session, "What is the total?", part, policy).patches.digest


def test_an_answer_that_nothing_was_found_does_not_count(lmm):
    policy = TiledCrops(sure=2.0, tokens=5, reads=16)
    session = Session(lmm, policy=[policy], image_tokens=100)
    part = session.read(picture(300, 260, 1))
    (first,) = revised(session, "What is the total?", part)
    messages = [Message("user", (first, TextPart("What is the total?")))]
    said = answer(lmm, messages, tokens=5, gate=session.policy.gate, features={}).text.strip()
    stricter = replace(policy, absent=said)
    session.policy = [stricter]
    (second,) = revised(session, "What is the total?", part)
    assert second.patches.digest != first.patches.digest
    assert second.patches.digest == by_hand(session, "What is the total?", part, stricter).patches.digest
    assert [found_something(Answer(text, 1.0), TiledCrops()) for text in ("Not found ", "", " ", "not found: 3")] == [
        0,
        0,
        0,
        1,
    ]


def test_where_the_page_is_sure_no_pane_is_read(lmm):
    session = Session(lmm, policy=[TiledCrops(sure=0.0)], image_tokens=100)
    part = session.read(picture(300, 260))
    assert revised(session, "What is the total?", part) == [part]
    list(session.send("What is the total?", [part]))
    assert session.stats.images_encoded == 1


def test_where_a_square_is_sure_nothing_more_is_read(lmm):
    part = Session(lmm, policy=[TiledCrops()], image_tokens=100).read(picture(300, 260))
    squares = panes(part, part.original, lmm.config.image, most=16, overlap=0.35)
    wide = strips(part, part.original, lmm.config.image, most=16, overlap=0.35)
    messages = [[Message("user", (each, TextPart("Total?")))] for each in (part, *(pane.image for pane in squares))]
    looks = FirstLook(lmm, 0)
    answer(lmm, messages[0], tokens=3, gate=False, features={}, looks=looks)
    order = looks.sort(squares, part.patches, (300, 260))
    said = [answer(lmm, each, tokens=3, gate=False, features={}).certainty for each in messages]
    assert wide
    assert max(said[1:]) > said[0], "needs a page on which a square is surer than the page"
    surest = order.index(squares[int(np.argmax(said[1:]))])
    for sure, least, most in (
        (0.9999 * max(said), 2 + surest, 2 + surest),
        (1.01 * max(said), 2 + len(squares), 1 + len(squares) + len(wide)),
    ):
        session = Session(lmm, policy=[TiledCrops(sure=sure, tokens=3, reads=16)], image_tokens=100, max_tokens=1)
        list(session.send("Total?", [part]))
        assert least <= session.stats.images_encoded <= most


@pytest.mark.parametrize("reads", [1, 2])
def test_no_more_panes_of_a_shape_are_read_than_where_it_looked_most(lmm, reads):
    part = Session(lmm, policy=[TiledCrops()], image_tokens=100).read(picture(300, 260))
    looks = FirstLook(lmm, 0)
    answer(lmm, [Message("user", (part, TextPart("Total?")))], tokens=3, gate=None, features={}, looks=looks)
    wanted = [part.patches.digest]
    for cut in (panes, strips):
        found = cut(part, part.original, lmm.config.image, most=16, overlap=0.35)
        assert len(found) > reads
        wanted += [pane.image.patches.digest for pane in looks.sort(found, part.patches, (300, 260))[:reads]]
    policy, features = TiledCrops(sure=2.0, tokens=3, reads=reads), {}
    policy.revise(lmm, [Message("user", (part, TextPart("Total?")))], None, features)
    assert set(features) == set(wanted)


@pytest.mark.parametrize("seed", range(3))
def test_panes_come_in_the_order_in_which_the_answer_looked(lmm, seed):
    """By the attention of the first token in the last layers, of the right image, summed cell by cell."""
    session = Session(lmm, policy=[TiledCrops()], image_tokens=100)
    small, part = session.read(picture(64, 48, seed)), session.read(picture(300, 260, seed))
    messages = [Message("user", (small, part, TextPart("What is the total?")))]
    looks = FirstLook(lmm, 1)
    plain = answer(lmm, messages, tokens=4, gate=None, features={})
    assert answer(lmm, messages, tokens=4, gate=None, features={}, looks=looks) == plain
    squares = panes(part, part.original, lmm.config.image, most=16, overlap=0.35)
    found = looks.sort(squares, part.patches, (300, 260))
    prompt, count = lmm.prompt(messages), lmm.config.text.num_layers
    layers = list(range(count - math.ceil(count / 3), count))
    (seen,) = answer_attention(lmm, [prompt], layers=layers, tokens=1, gate=None, features={})
    rows, columns = part.patches.grid[1] // 2, part.patches.grid[2] // 2
    grid = seen[0].mean(axis=0)[-rows * columns :].reshape(rows, columns)
    fine = np.kron(grid, np.ones((260, 300)))  # 260 rows of 300 a cell: every pixel is a whole number of these
    shares = []
    for pane in squares:
        left, top, right, bottom = pane.box
        shares.append(fine[top * rows : bottom * rows, left * columns : right * columns].sum() / fine.sum())
        assert share_inside(grid, (300, 260), pane.box) == pytest.approx(shares[-1], rel=1e-9)
    assert found == [squares[i] for i in np.argsort(-np.array(shares), kind="stable")]
    assert found != squares


def test_a_map_without_anything_has_no_share_inside():
    assert share_inside(np.zeros((2, 3)), (30, 20), (0, 0, 30, 20)) == 0
    assert FirstLook(tiny_model(GateConfig(rank=4, kv_groups=0.5)), 0).sort([], None, (1, 1)) == []


def test_several_images_are_decided_in_turn_and_small_ones_stay(lmm):
    policy = TiledCrops(sure=2.0, tokens=4)
    session = Session(lmm, policy=[policy], image_tokens=100)
    small, large = session.read(picture(64, 48)), session.read(picture(300, 260, 2))
    first, second = revised(session, "Which is it?", small, large)
    assert first is small
    assert second is not large
    saved = replace(large, original=None)
    assert revised(session, "Which is it?", small, saved) == [small, saved]
    assert revised(session, "Hello?") == []


def test_the_next_question_reads_no_pane_anew(lmm):
    session = Session(lmm, policy=[TiledCrops(sure=2.0, tokens=3, reads=16)], image_tokens=64, max_tokens=3)
    list(session.send("What is the total?", [picture(420, 300)]))
    assert session.stats.images_encoded > 9
    list(session.send("What is the date?"))
    assert session.stats.images_encoded == 0


@pytest.mark.parametrize("name", ["idefics3", "llava", "qwen2_vl"])
def test_other_families_read_panes_too(name, tmp_path):
    lmm = rave_mlx.load(write_checkpoint(cases()[name], tmp_path))
    few = 64 if name == "qwen2_vl" else None  # the others have sizes of their own
    session = Session(lmm, policy=[TiledCrops(sure=2.0, tokens=2, most=6, reads=6)], image_tokens=few, max_tokens=2)
    part = session.read(picture(900, 700))
    if is_reduced(part.patches, lmm.config.image):
        (found,) = revised(session, "What is the total?", part)
        assert (
            found.patches.digest
            == by_hand(session, "What is the total?", part, session.policy.policies[0]).patches.digest
        )
    assert list(session.send("What is the total?", [part]))


def test_settings_are_checked():
    assert steering("rave+panes:most=4,sure=0.5") == Steering(True, (TiledCrops(most=4, sure=0.5),))
    for text in ("panes:most=0", "panes:reads=0", "panes:overlap=1", "panes:sure=-1", "panes:tokens=0"):
        with pytest.raises(UsageError, match="--attention panes"):
            steering(text)
    with pytest.raises(UsageError, match="both choose what is read"):
        steering("panes+carve")


# What people get


def test_the_config_names_the_policy_unless_another_is_chosen():
    lmm = rave_mlx.load()
    assert lmm.config.attention == "rave+views+words"
    assert Session(lmm).policy == Steering(True, (MultiScale(), FoundWords()))
    assert Session(lmm, policy="rave+panes+views").policy == Steering(True, (TiledCrops(), MultiScale()))
    assert Session(lmm, policy="none").policy == Steering(False)
    assert Session(tiny_model()).policy == Steering()


def test_a_receipt_on_a_large_page_is_read(tmp_path):
    """A scan of A4 size with a small print on it: the page itself is read at a quarter of its size."""
    page = Image.new("RGB", (1600, 2200), "white")
    page.paste(Image.open(RECEIPT).convert("RGB"), (300, 1200))
    page = page.filter(ImageFilter.GaussianBlur(0.3))
    page.save(tmp_path / "scan.png")
    command = ("chat", "--image", tmp_path / "scan.png", "--prompt", "What is the total?")
    done = rave(*command)
    assert (done.returncode, done.stdout) == (0, "13.60\n")
    assert "1600 x 2200 pixels, 999 visual tokens, read at 0.27 of its size" in done.stderr
    assert rave(*command, "--attention", "rave").stdout != "13.60\n"


def test_a_value_at_the_other_margin_of_a_large_page_is_read(monkeypatch):
    """Forms 850 pixels wide with labels at the left margin and values at the right: no square has both."""
    lmm = rave_mlx.load()
    config = PageConfig(850, 900, "form", "spread", sizes=(14.0, 16.0), trim=0, scan=False, held_values=True)
    page = make(1, config, with_words=False)

    question = [q for q in page.questions if q.kind == "field"][2]

    def is_right() -> bool:
        session = Session(lmm, policy="rave+panes+views")
        return "".join(piece.text for piece in session.send(question.text, [page.image])) == question.answer

    assert is_right()
    monkeypatch.setattr(tiled_crops, "strips", lambda *_, **__: [])
    assert not is_right()
