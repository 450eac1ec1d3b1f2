"""Data sets for training: forms of rows, what is refused and how, order, loading, the check and its picture."""

from __future__ import annotations

import base64
import io
import json
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from families import cases, write_checkpoint
from PIL import ExifTags, Image
from support import ask, picture, tiny_config, tiny_model, write_image

import rave_mlx
from rave_mlx.checkpoint.directory import BUILT_IN
from rave_mlx.config import ImageConfig
from rave_mlx.errors import ImageError, UsageError
from rave_mlx.inputs.image_reference import ImageReference
from rave_mlx.inputs.images.preprocess import cut_patches, read_patches
from rave_mlx.inputs.prompt.message import ImagePart
from rave_mlx.inputs.text_files import RowError
from rave_mlx.train.batch import collate
from rave_mlx.train.batch_sampler import BatchSampler
from rave_mlx.train.check_data import check_data
from rave_mlx.train.dataset import open_dataset
from rave_mlx.train.draw import draw_examples, pieces, seen
from rave_mlx.train.image_stub import Spool, make_stub
from rave_mlx.train.loader import Loader
from rave_mlx.train.rows import DataError, read_row
from rave_mlx.train.sources import has_split, read_source

LMM = tiny_model()
YES = {"role": "assistant", "content": "Yes."}


@pytest.fixture
def folder(tmp_path):
    for index, size in enumerate([(40, 24), (64, 16), (17, 90)]):
        write_image(picture(*size, index), tmp_path / f"{index}.png")
    return tmp_path


def write(folder, rows, name="train.jsonl"):
    file = folder / name
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return file


def png(image):
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def text(example, lmm=LMM):
    """The example's tokens without images and control tokens."""
    return lmm.tokenizer.decode(example.prompt.ids[0][~example.prompt.token_map.visual].tolist())


FORMS = {
    "parts": {"messages": [ask("Same?", "0.png", "1.png"), YES]},
    "parts filled from a list": {
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Same?"}]}, YES,
        ],
        "images": ["0.png", "1.png"],
    },
    "parts of a table": {
        "messages": [
            {"role": "user", "content": [
                {"type": "image", "text": None, "image": "0.png"}, {"type": "image", "text": None, "image": "1.png"},
                {"type": "text", "text": "Same?", "image": None},
            ]},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes.", "image": None}]},
        ],
    },
    "markers": {
        "messages": [{"role": "user", "content": "<image>\n<image>\nSame?"}, YES], "images": ["0.png", "1.png"]
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": "<image><image>\nSame?"}, {"from": "gpt", "value": "Yes."}],
        "images": ["0.png", {"path": "1.png", "bytes": None}],
    },
    "columns": {"images": ["0.png", "1.png"], "question": "Same?", "answer": "Yes."},
    "the cauldron": {"images": ["0.png", "1.png"], "texts": [{"user": "Same?", "assistant": "Yes.", "source": "x"}]},
    "names that people use": {"file_name": ["0.png", "1.png"], "query": "Same?", "answers": ["Yes.", "yes"]},
    "other columns": {"image": ["0.png", "1.png"], "prompt": "Same?", "response": "\n Yes. "},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_row_says_the_same(folder, form):
    dataset = open_dataset(write(folder, [FORMS[form]]), LMM)
    example = dataset[0]
    assert text(example) == "user\nSame?\nassistant\nYes.\n"
    expected = [read_patches(folder / name, LMM.config.image).digest for name in ("0.png", "1.png")]
    assert [image.digest for image in example.prompt.images] == expected
    assert text(example)[-6:] == "\nYes.\n" and example.loss_mask.sum() == 5
    assert example.where == "train.jsonl, line 1"
    assert dataset.lengths == [len(example)]


@pytest.mark.parametrize("how", ["data url", "image_url", "file url", "absolute", "page"])
def test_where_an_image_may_lie(folder, how):
    data = "data:image/png;base64," + base64.b64encode((folder / "0.png").read_bytes()).decode()
    part = {
        "data url": {"type": "image", "image": data},
        "image_url": {"type": "image_url", "image_url": {"url": data}},
        "file url": {"type": "image", "url": f"file://{folder}/0.png"},
        "absolute": {"type": "image", "path": str(folder / "0.png")},
        "page": {"type": "image", "image": "pages.tiff", "page": 2},
    }[how]
    pages = [picture(30, 30, 9), Image.open(folder / "0.png")]
    pages[0].save(folder / "pages.tiff", save_all=True, append_images=pages[1:])
    row = {"messages": [{"role": "user", "content": [part]}, YES]}
    example = open_dataset(write(folder, [row]), LMM)[0]
    assert example.prompt.images[0].digest == read_patches(folder / "0.png", LMM.config.image).digest


BAD = {
    "not JSON (column 17: expecting ',' delimiter)": '{"messages": [}'.replace("[}", "[1 2]}"),
    "expected an object, found list": [1],
    "none of messages, conversations, texts, or question and answer": {"text": "?"},
    "no assistant turn": {"messages": [ask("?", "0.png")]},
    "message 2: the answer is empty": {"messages": [ask("?", "0.png"), {"role": "assistant", "content": "  \n"}]},
    "message 1: the user turn is empty": {"messages": [{"role": "user", "content": ""}, YES]},
    "message 1: role 'tool'": {"messages": [{"role": "tool", "content": "x"}, YES]},
    "message 1: speaker 'robot' is not one of": {"conversations": [{"from": "robot", "value": "x"}]},
    'message 1: expected an object with "role"': {"messages": ["hi", YES]},
    "messages should be a list of messages, found str": {"messages": "hi"},
    'message 1: expected {"type": "text"': {"messages": [{"role": "user", "content": [{"type": "video"}]}, YES]},
    "message 1: <|image|> looks like a place for an image; write <image> instead": {
        "image": "0.png", "question": "<|image|>?", "answer": "x"
    },
    "message 1: nothing is read from images": {
        "messages": [{"role": "user", "content": "?", "images": ["0.png"]}, YES]
    },
    "message 1: nothing is read from max_pixels of an image": {
        "messages": [{"role": "user", "content": [{"type": "image", "image": "0.png", "max_pixels": 9}]}, YES]
    },
    "the column scan holds an image that is not read": {"scan": "0.png", "question": "?", "answer": "x"},
    "file_name: 1 images are listed, the text has places for 0": {
        "messages": [{"role": "user", "content": "?"}, YES], "file_name": "0.png"
    },
    "an answer holds an image": {"messages": [ask("?"), ask("x", "0.png", role="assistant")]},
    "no image": {"image": "absent.png", "question": "?", "answer": "x"},
    "0.txt: this is ": {"image": "0.txt", "question": "?", "answer": "x"},
    "addresses are not fetched": {"image": "https://example.org/a.png", "question": "?", "answer": "x"},
    "not valid base64": {"image": "data:image/png;base64,!!", "question": "?", "answer": "x"},
    "an image is a path, bytes or a data: URL, found int": {"image": [7], "question": "?", "answer": "x"},
    "message 1: <image> is a place for an image, but the row has no image": {
        "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}]
    },
    "message 1: <image> is a place for an image, but no image is left for it": {
        "conversations": [{"from": "human", "value": "<image><image>"}, {"from": "gpt", "value": "x"}], "image": "0.png"
    },
    "images: 2 images are listed, the text has places for 1": {
        "messages": [{"role": "user", "content": "<image> ?"}, YES], "images": ["0.png", "1.png"]
    },
    "both image and images": {"image": "0.png", "images": ["1.png"], "question": "?", "answer": "x"},
    "answer is missing or not text": {"image": "0.png", "question": "?"},
    "thin.png: 2000 x 2 pixels is too narrow": {"image": "thin.png", "question": "?", "answer": "x"},
    "bomb.png: 400 megapixels": {"image": "bomb.png", "question": "?", "answer": "x"},
    "tokens, 0 of them visual, where 300 are allowed; lower --image-tokens": {"question": "long" * 100, "answer": "x"},
}  # fmt: skip


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_row_is_named_with_its_line_and_reason(folder, reason):
    (folder / "0.txt").write_text("words")
    write_image(Image.new("RGB", (2000, 2)), folder / "thin.png")
    huge = bytearray(png(Image.new("RGB", (1, 1))))
    huge[16:24] = struct.pack(">II", 20000, 20000)
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    (folder / "bomb.png").write_bytes(huge)
    good = {"image": "0.png", "question": "?", "answer": "x"}
    file = write(folder, [good, BAD[reason], good])
    with pytest.raises(DataError) as raised:
        open_dataset(file, LMM, max_tokens=300)
    message = str(raised.value)
    assert "1 of 3 rows cannot be trained on: train.jsonl, line 2: " in message
    assert reason in message and message.endswith("leave them out with --bad-rows 1")
    assert "\n" not in message
    dataset = open_dataset(file, LMM, max_tokens=300, bad_rows=1)
    assert len(dataset) == 2 and len(dataset.bad) == 1 and reason in dataset.bad[0]


def test_ten_bad_rows_are_listed_and_the_rest_counted(folder):
    file = write(folder, [{"question": "?"}] * 12 + [{"question": "?", "answer": "x"}])
    with pytest.raises(DataError, match=r"12 of 13 rows .* \(11 are allowed\): .*line 10: .*; and 2 more") as raised:
        open_dataset(file, LMM, bad_rows=11)
    assert "line 11" not in str(raised.value)
    with pytest.raises(DataError, match="1 of 1 rows cannot be trained on"):
        open_dataset(write(folder, [{"question": "?"}]), LMM, bad_rows=5)
    with pytest.raises(DataError, match="no rows to train on"):
        open_dataset(write(folder, [""]), LMM)


def test_damaged_images_are_found_where_bad_rows_are_tolerated_and_named_where_not(folder):
    data = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    rows = [{"image": name, "question": "?", "answer": "x"} for name in ("0.png", "cut.png", "1.png")]
    file = write(folder, rows)
    assert len(open_dataset(file, LMM, bad_rows=1)) == 2
    dataset = open_dataset(file, LMM)
    assert len(dataset) == 3
    with pytest.raises(DataError, match=r"^train.jsonl, line 2: .*cut.png: damaged"):
        dataset[1]
    with (
        Loader(dataset, BatchSampler(dataset.lengths, 1), 0) as loader,
        pytest.raises(DataError, match="line 2: .*damaged"),
    ):
        list(loader)


def test_an_image_that_changes_after_opening_is_noticed(folder):
    dataset = open_dataset(write(folder, [FORMS["columns"]]), LMM)
    write_image(picture(200, 200), folder / "1.png")
    with pytest.raises(DataError, match=r"line 1: .*1.png: the image has changed"):
        dataset[0]


def test_budgets(folder):
    file = write(folder, [{"image": "0.png", "question": "?", "answer": "x"}])
    assert open_dataset(file, LMM, image_tokens=3).stats[0].visual <= 3
    assert open_dataset(file, LMM, image_tokens=3)[0].prompt.visual_tokens <= 3
    with pytest.raises(ImageError, match="a budget of 0 tokens"):
        open_dataset(file, LMM, image_tokens=0)


def test_models_of_single_questions_get_one_example_an_answer(folder):
    rows = [
        {"messages": [
            ask("One?", "0.png"), {"role": "assistant", "content": "A"}, ask("Two?"),
            {"role": "assistant", "content": "B"}, ask("Three?", "1.png", "2.png"),
            {"role": "assistant", "content": "C"},
        ]},
        {"image": "0.png", "question": "Four?", "answer": "D"},
    ]  # fmt: skip
    lmm = rave_mlx.load(BUILT_IN)
    assert lmm.config.turns == "last"
    dataset = open_dataset(write(folder, rows), lmm)
    digests = [read_patches(folder / f"{i}.png", lmm.config.image).digest for i in range(3)]
    expected = [("One?", "A", [0]), ("Two?", "B", [0]), ("Three?", "C", [1, 2]), ("Four?", "D", [0])]
    assert len(dataset) == 4
    for index, (question, answer, images) in enumerate(expected):
        example = dataset[index]
        assert text(example, lmm) == f"user\n{question}\nassistant\n{answer}\n"
        assert [image.digest for image in example.prompt.images] == [digests[i] for i in images]
        messages, right = dataset.question(index)
        assert right == answer and messages[-1].parts[-1].text == question
        assert sum(isinstance(part, ImagePart) for m in messages for part in m.parts) == len(images)
    assert dataset.where(2) == "train.jsonl, line 1, answer 3" and dataset.where(3) == "train.jsonl, line 2"
    assert len(open_dataset(folder / "train.jsonl", LMM)) == 2


def test_text_only_rows_and_models(folder):
    row = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Well?"}, YES]}
    example = open_dataset(write(folder, [row]), LMM)[0]
    assert text(example) == "system\nBe brief.\nuser\nWell?\nassistant\nYes.\n"
    case = cases()["qwen2"]
    lmm = rave_mlx.load(write_checkpoint(case, folder / "hf"))
    assert text(open_dataset(folder / "train.jsonl", lmm)[0], lmm) == text(example)
    with pytest.raises(DataError, match="line 1: this model reads text only"):
        open_dataset(write(folder, [FORMS["parts"]]), lmm)


SOURCES = ["jsonl", "json", "parquet", "shards"]


@pytest.mark.parametrize("kind", SOURCES)
def test_folders_and_files(folder, kind):
    rows = [
        {"question": f"{i}?", "answer": "x", "image": {"bytes": png(picture(30, 20, i)), "path": "x"}} for i in range(5)
    ]
    listed = [row | {"image": f"{i % 3}.png"} for i, row in enumerate(rows)]
    if kind == "jsonl":
        write(folder, listed)
    elif kind == "json":
        (folder / "train.json").write_text(json.dumps(listed))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        names = ["train.parquet"] if kind == "parquet" else [f"data/train-0000{i}-of-00002.parquet" for i in range(2)]
        (folder / "data").mkdir()
        cut = np.array_split(np.arange(5), len(names))
        for name, part in zip(names, cut, strict=True):
            parquet.write_table(pyarrow.Table.from_pylist([rows[i] for i in part]), folder / name, row_group_size=2)
    dataset = open_dataset(folder, LMM)
    assert [text(e)[:7] for e in dataset] == [f"user\n{i}?" for i in range(5)]
    for index, example in enumerate(dataset):
        image = picture(30, 20, index) if kind in ("parquet", "shards") else Image.open(folder / f"{index % 3}.png")
        assert example.prompt.images[0].digest == cut_patches(image, LMM.config.image).digest
    assert has_split(folder, "train") and not has_split(folder, "valid")
    with pytest.raises(UsageError, match="no valid split in this folder; it should hold valid.jsonl or"):
        open_dataset(folder, LMM, split="valid")
    write(folder, listed[:2], "validation.jsonl")
    assert len(open_dataset(folder, LMM, split="valid")) == 2


def test_sources_that_are_none(folder):
    with pytest.raises(UsageError, match="no such file or folder, and no id"):
        open_dataset(folder / "absent", LMM)
    write(folder, [], "train.csv")
    with pytest.raises(UsageError, match="rows are read from .jsonl, .json, .parquet"):
        open_dataset(folder / "train.csv", LMM)
    write(folder, [{"question": "?", "answer": "x"}])
    with pytest.raises(UsageError, match="a single file has no valid split"):
        open_dataset(folder / "train.jsonl", LMM, split="valid")
    (folder / "train.json").write_text('{"question": "?",\n"answer": "x"}')
    with pytest.raises(UsageError, match=r"both train.jsonl and train.json could be"):
        open_dataset(folder, LMM)
    with pytest.raises(RowError, match="train.json: one object over several lines; expected a list of rows"):
        open_dataset(folder / "train.json", LMM)
    (folder / "broken.parquet").write_bytes(b"PAR1 no")
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        open_dataset(folder / "broken.parquet", LMM)


def test_line_separators_within_strings_end_no_row(folder):
    write(folder, [{"question": "a\u2028b\x85c", "answer": "x"}])
    (folder / "train.jsonl").write_text(
        json.dumps({"question": "a\u2028b\x85c", "answer": "x"}, ensure_ascii=False), encoding="utf-8-sig"
    )
    assert "a\u2028b\x85c" in text(open_dataset(folder, LMM)[0])


def test_a_data_set_of_the_datasets_package(folder, monkeypatch):
    """Through `load_dataset`, from a folder instead of the Hub: images come as encoded bytes."""
    datasets = pytest.importorskip("datasets")
    from rave_mlx.train import sources

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    images = [{"bytes": (folder / f"{i}.png").read_bytes(), "path": None} for i in range(2)]
    rows = {"image": images, "question": ["a?", "b?"], "answer": ["x", "y"]}
    features = datasets.Features(
        image=datasets.Image(), question=datasets.Value("string"), answer=datasets.Value("string")
    )
    made = datasets.Dataset.from_dict(rows, features=features)
    (folder / "set").mkdir()
    made.to_parquet(folder / "set" / "validation.parquet")
    found = list(sources._hub_rows(str(folder / "set"), "valid"))
    assert [raw.row["question"] for raw in found] == ["a?", "b?"]
    turns = read_row(found[1].row, folder)
    assert turns[0].parts[0].source == (folder / "1.png").read_bytes()
    with pytest.raises(UsageError, match="has no train split"):
        list(sources._hub_rows(str(folder / "set"), "train"))


def test_what_is_not_installed_is_named(folder, monkeypatch):
    from rave_mlx.train import sources

    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    (folder / "train.parquet").write_bytes(b"")
    for source in (folder, "owner/name"):
        with pytest.raises(UsageError, match=r"needs the package .*pip install 'rave-mlx\[train\]'"):
            list(read_source(source, "train"))


CONFIGS = {name: case for name, case in cases().items() if case.processor}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_stub_has_the_layout_of_the_image(name, tmp_path):
    """From the header of the file alone, for every family's way of cutting images."""
    config = rave_mlx.load(write_checkpoint(CONFIGS[name], tmp_path / "hf")).config.image
    rng = np.random.default_rng(0)
    for index, budget in enumerate((None, None, None, None, 700, 1500)):
        width, height = (int(side) for side in np.exp(rng.uniform(np.log(20), np.log(900), 2)))
        file = tmp_path / f"{index}.jpg"
        if index > 2:
            file = file.with_suffix((".png", ".tiff", ".webp")[index - 3])
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = index + 1 if index < 3 else 6
        Image.new("RGB", (width, height), "gray").save(file, exif=exif)
        spool = Spool()
        made = read_patches(file, config, image_tokens=budget)
        for source in (file, file.read_bytes()):
            found = make_stub(ImageReference(source), config, budget, spool)
            assert (found.layout, found.grid, found.size) == (made.layout, made.grid, made.size)
            assert found.read(config, budget).digest == made.digest


def test_stubs_of_pages_are_made_by_drawing_them(tmp_path):
    config = tiny_config().image
    picture(60, 80).save(tmp_path / "a.pdf")
    found = make_stub(ImageReference(tmp_path / "a.pdf"), config, 40, Spool())
    assert found.layout == read_patches(tmp_path / "a.pdf", config, image_tokens=40).layout
    assert not found.pixels.size


def test_every_row_is_in_one_batch_and_epochs_differ():
    lengths = np.random.default_rng(0).integers(10, 500, 1000).tolist()
    order = BatchSampler(lengths, 16, seed=3)
    first, second = order.batches(0), order.batches(1)
    assert len(order) == len(first) == 63
    assert sorted(i for batch in first for i in batch) == list(range(1000))
    assert sorted(map(len, first)) == [8] + [16] * 62
    assert first == order.batches(0) == BatchSampler(lengths, 16, seed=3).batches(0)
    assert first != second and first != BatchSampler(lengths, 16, seed=4).batches(0)
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in first)
    assert padded < 1.05 * sum(lengths)
    means = [np.mean([lengths[i] for i in batch]) for batch in first]
    assert abs(np.corrcoef(means, np.arange(63))[0, 1]) < 0.4, "short and long batches are mixed"


def test_processes_share_every_batch():
    lengths = list(range(21))
    whole = BatchSampler(lengths, 4, seed=1).batches(2)
    shares = [BatchSampler(lengths, 4, seed=1, rank=rank, size=3).batches(2) for rank in range(3)]
    assert all(len(share) == len(whole) for share in shares)
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(batch) == sorted(i for part in parts for i in part)
    assert any(not part for share in shares for part in share), "the last row of 21 is one process's"
    with pytest.raises(UsageError, match="cannot be dealt out over 3 processes"):
        BatchSampler(lengths, 2, size=3)


def same(first, second):
    return (
        first.where == second.where
        and (first.ids == second.ids).all()
        and first.loss_mask.tolist() == second.loss_mask.tolist()
    )


@pytest.fixture
def dataset(folder):
    rows = [{"image": f"{i % 3}.png", "question": "?" * (i % 5), "answer": f"{i}"} for i in range(23)]
    return open_dataset(write(folder, rows), LMM)


def test_the_loader_keeps_the_order_whatever_its_threads_do(dataset, monkeypatch):
    order = BatchSampler(dataset.lengths, 4, seed=1)
    expected = [collate([dataset[i] for i in rows]) for rows in order.batches(5)]
    real = type(dataset).__getitem__

    def late(self, index):
        time.sleep(0.003 * (index % 4))
        return real(self, index)

    monkeypatch.setattr(type(dataset), "__getitem__", late)
    for workers in (1, 4):
        with Loader(dataset, order, 5, workers=workers) as loader:
            assert all(same(x, y) for x, y in zip(loader, expected, strict=True))
    with Loader(dataset, order, 5, 4) as loader:
        assert all(same(x, y) for x, y in zip(loader, expected[4:], strict=True))


def test_the_loader_reads_ahead_within_bounds_and_stops_cleanly(dataset, monkeypatch):
    before = threading.active_count()
    built = []
    real = Loader._build
    monkeypatch.setattr(Loader, "_build", lambda self, rows: (built.append(rows), real(self, rows))[1])
    with Loader(dataset, BatchSampler(dataset.lengths, 2), 0, workers=2) as loader:
        batches = iter(loader)
        next(batches)
        time.sleep(0.3)
        assert 2 <= len(built) <= 5
    assert threading.active_count() == before
    assert len(built) <= 5


def test_the_report(folder):
    rows = [
        {"messages": [ask("One?", "0.png"), YES, ask("Two?"), YES], "id": 1},
        {"messages": [ask("Same?", "0.png", "1.png"), YES], "source": "x"},
        {"question": "?"},
        {"image": "cut.png", "question": "?", "answer": "x"},
    ]
    data = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    dataset = open_dataset(write(folder, rows[:2]), LMM)
    report = check_data(dataset)
    visual = [read_patches(folder / f"{i}.png", LMM.config.image).tokens for i in range(2)]
    assert report.examples == 2 and report.bad == () and report.unused == ("id", "source")
    assert report.visual == 2 * visual[0] + visual[1] and report.trained_tokens == 3 * 5
    assert report.total_tokens == sum(dataset.lengths)
    assert report.tokens["min"] == min(dataset.lengths) and report.tokens["max"] == max(dataset.lengths)
    assert (report.images, report.answers, report.unended) == ({1: 1, 2: 1}, {1: 1, 2: 1}, 0)
    assert "2 examples, 0 bad rows" in report.text() and "id, source" in report.text()

    report = check_data(open_dataset(write(folder, rows), LMM, bad_rows=2))
    assert [reason.partition(":")[0] for reason in report.bad] == ["train.jsonl, line 3", "train.jsonl, line 4"]
    assert "bad row        train.jsonl, line 4" in report.text()
    report = check_data(open_dataset(write(folder, [rows[0], rows[3]]), LMM))
    assert report.examples == 1 and "line 2" in report.bad[0]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_next", "internvl", "idefics3"])
def test_the_picture_shows_what_the_tower_reads(name, tmp_path):
    case = cases()[name]
    lmm = rave_mlx.load(write_checkpoint(case, tmp_path / "hf"))
    config = lmm.config.image
    image = picture(120, 70)
    shown = seen(cut_patches(image, config), config)
    if isinstance(config, ImageConfig):
        width, height = shown[0].size
        expected = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        assert len(shown) == 1 and np.abs(np.asarray(shown[0], int) - expected.astype(int)).max() <= 1
    else:
        assert len(shown) == cut_patches(image, config).grid[0]
        again = [np.asarray(tile) for tile in shown]
        assert all(tile.shape[0] == config.tile_size // config.patch_size * config.patch_size for tile in again)
    write_image(image, tmp_path / "a.png")
    dataset = open_dataset(write(tmp_path, [{"image": "a.png", "question": "Who?", "answer": "Ann\nBo"}]), lmm)
    drawn = list(pieces(lmm, dataset[0]))
    trained = "".join(p.text for p in drawn if p.colour == "#b6e8bd")
    assert trained.startswith("Ann↵Bo") and "Who" not in trained
    runs = [int(p.text.split(": ")[1].split()[0]) for p in drawn if p.colour == "#ffe3b8"]
    assert runs == [part for part in dataset[0].prompt.images[0].layout if isinstance(part, int)]
    page = Image.open(draw_examples(lmm, dataset, tmp_path / "examples.png"))
    assert page.width == 1200
    colours = {colour for _, colour in page.convert("RGB").getcolors(1 << 24)}
    assert {(0xB6, 0xE8, 0xBD), (0xE3, 0xE6, 0xEE), (0xFF, 0xE3, 0xB8)} <= colours
