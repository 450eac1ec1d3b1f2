"""The reader of printed lines: its network against torch, its text against what was drawn, its files when broken."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image, ImageDraw, ImageFont

import rave_mlx
from rave_mlx.errors import ConfigError, ModelError
from rave_mlx.inputs.lines.line_crops import line_pictures
from rave_mlx.inputs.lines.page_lines import LeveledPage, PageLine
from rave_mlx.models.line_reader.config import SETTINGS, WEIGHTS, Block, LineReaderConfig
from rave_mlx.models.line_reader.network import LineReaderNetwork, _gelu
from rave_mlx.models.line_reader.reader import load_line_reader, read_classes

FOLDER = Path(rave_mlx.__file__).parent / "checkpoint" / "builtin" / "finder"
TINY = LineReaderConfig(
    "ab ",
    4,
    (Block(8, 8, squeeze=True), Block(8, 8), Block(8, 12, stride=2), Block(12, 12, squeeze=True)),
    10,
    2,
    5,
    48,
)
LINES = ("Total due: $1,309.60", "Invoice no. GALT-009", "maria.quist@fjord.example", "21 May 2026, 8:40 am", "7")


@pytest.fixture(scope="module")
def reader():
    return load_line_reader(FOLDER)


def drawn(text, size=30, ink="black", paper="white"):
    """A line as a picture of 48 pixels, its print `size` pixels high."""
    font = ImageFont.load_default(size)
    picture = Image.new("RGB", (math.ceil(font.getlength(text)) + 20, 48), paper)
    ImageDraw.Draw(picture).text((10, 24), text, fill=ink, font=font, anchor="lm")
    return picture


@pytest.mark.parametrize(
    "look", [{}, {"size": 24}, {"ink": "white", "paper": "navy"}, {"ink": "#777", "paper": "#eee"}]
)
@pytest.mark.parametrize("text", LINES)
def test_print_is_read(reader, text, look):
    found = reader.read([drawn(text, **look)])[0]
    assert found.text == text
    assert len(found.certainties) == len(text.split())
    assert all(0.3 < certainty <= 1 for certainty in found.certainties)


def test_paper_has_no_words(reader):
    assert reader.read([Image.new("RGB", (90, 48), "white")])[0].words == ()


def test_no_pictures_no_lines(reader):
    assert reader.read([]) == []


def test_a_line_reads_the_same_beside_others(reader):
    pictures = [drawn(text) for text in LINES * 2]
    together = reader.read(pictures)
    for picture, found in zip(pictures, together, strict=True):
        alone = reader.read([picture])[0]
        assert alone.words == found.words
        assert alone.certainties == pytest.approx(found.certainties, abs=1e-3)


def test_what_onnx_runtime_computes_from_the_published_weights(reader):
    """Recorded with onnxruntime 1.31 from PP-OCRv6_rec_small.onnx, its probabilities over the kept characters."""
    picture = np.full((48, 160, 3), 235, np.uint8)
    for left, top, right, bottom in (
        (16, 10, 22, 38), (16, 33, 36, 38), (56, 10, 62, 38), (76, 10, 82, 38), (56, 21, 82, 26), (100, 10, 122, 15),
        (108, 10, 114, 38),
    ):  # fmt: skip
        picture[top:bottom, left:right] = (20, 30, 90)
    scores = reader.network(mx.array(picture[None].astype(np.float32) / 127.5 - 1))
    probabilities = np.array(mx.softmax(scores, axis=-1))[0]
    assert probabilities.shape == (20, 1 + len(reader.config.characters))
    expected = [
        0.9999, 0.9977, 0.9976, 0.9962, 0.9896, 0.6129, 0.8323, 0.9978, 0.9977, 0.9950, 0.9613, 0.7531, 0.8326, 0.9985,
        0.9954, 0.9981, 0.9982, 0.9984, 0.9988, 0.9999,
    ]  # fmt: skip
    # Stored in 8 bits here.
    np.testing.assert_allclose(probabilities.max(axis=1), expected, atol=0.12)
    found = {step: reader.config.characters[k - 1] for step, k in enumerate(probabilities.argmax(axis=1)) if k}
    assert found == {3: "L", 8: "H", 14: "T"}


def random_network(config, seed=0):
    """A network with random weights, and these as float64 arrays."""
    rng, network = np.random.default_rng(seed), LineReaderNetwork(config)
    weights = {name: rng.normal(0, 0.25, array.shape) for name, array in tree_flatten(network.parameters())}
    network.load_weights([(name, mx.array(array.astype(np.float32))) for name, array in weights.items()])
    return network, weights


def torch_scores(config, weights, pictures):
    """The same computed by torch's own layers in float64, channels first as PaddleOCR has them."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    w = {name: torch.from_numpy(array) for name, array in weights.items()}

    def conv(x, name, **options):
        return functional.conv2d(x, w[f"{name}.weight"].permute(0, 3, 1, 2), w[f"{name}.bias"], **options)

    def depthwise(x, name, stride=1):
        weight = w[f"{name}.weight"].permute(2, 0, 1)[:, None]
        padding = weight.shape[2] // 2, weight.shape[3] // 2
        return functional.conv2d(x, weight, w[f"{name}.bias"], (stride, 1), padding, groups=x.shape[1])

    def point(x, name):
        return functional.conv2d(x, w[f"{name}.weight"][:, :, None, None], w[f"{name}.bias"])

    def linear(x, name):
        return functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    x = torch.relu(conv(torch.from_numpy(pictures).permute(0, 3, 1, 2), "stem.first", stride=2, padding=1))
    fine = torch.relu(conv(functional.pad(x, (0, 1, 0, 1)), "stem.inner.0"))
    fine = torch.relu(conv(functional.pad(fine, (0, 1, 0, 1)), "stem.inner.1"))
    largest = functional.max_pool2d(functional.pad(x, (0, 1, 0, 1), value=-math.inf), 2, stride=1)
    x = torch.relu(conv(torch.cat([largest, fine], 1), "stem.joined", stride=2, padding=1))
    x = torch.relu(point(x, "stem.wider"))
    for number, block in enumerate(config.blocks):
        name = f"blocks.{number}"
        x = depthwise(x, f"{name}.spatial", block.stride)
        if block.squeeze:
            means = x.mean((2, 3), keepdim=True)
            x = x * functional.hardsigmoid(
                point(torch.relu(point(means, f"{name}.squeeze.down")), f"{name}.squeeze.up")
            )
        y = point(functional.gelu(point(x, f"{name}.up")), f"{name}.down")
        x = x + y if block.stride == 1 and block.width == block.out else y
    x = functional.avg_pool2d(x, (config.rows, 2))
    short, y = functional.silu(point(x, "mixer.short")), functional.silu(point(x, "mixer.into"))
    y = (y + functional.silu(depthwise(y, "mixer.near")))[:, :, 0].transpose(1, 2)
    size = (config.mixer,)
    for number in range(config.layers):
        name = f"mixer.layers.{number}"
        normed = functional.layer_norm(y, size, w[f"{name}.norm1.weight"], w[f"{name}.norm1.bias"], 1e-5)
        parts = linear(normed, f"{name}.qkv").unflatten(2, (3, config.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        y = y + linear(seen, f"{name}.out")
        normed = functional.layer_norm(y, size, w[f"{name}.norm2.weight"], w[f"{name}.norm2.bias"], 1e-5)
        y = y + linear(functional.silu(linear(normed, f"{name}.up")), f"{name}.down")
    y = functional.layer_norm(y, size, w["mixer.norm.weight"], w["mixer.norm.bias"], 1e-6)
    return linear(y + short[:, :, 0].transpose(1, 2), "head").numpy()


@pytest.mark.parametrize("height", [48, 64])
def test_network_against_torch(height):
    config = replace(TINY, height=height)
    network, weights = random_network(config)
    pictures = np.random.default_rng(1).uniform(-1, 1, (2, height, 48, 3))
    scores = np.array(network(mx.array(pictures.astype(np.float32))))
    assert scores.shape == (2, 6, 4)
    np.testing.assert_allclose(scores, torch_scores(config, weights, pictures), rtol=2e-4, atol=2e-4)


def test_gelu_is_exact():
    x = np.concatenate([np.linspace(-40, 40, 801), [0.0, -1e-7, 3.5]]).astype(np.float32)
    expected = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.astype(np.float64)]
    np.testing.assert_allclose(np.array(_gelu(mx.array(x))), expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("seed", range(20))
def test_classes_are_read_as_ctc_has_it(seed):
    rng = np.random.default_rng(seed)
    characters = "ab "
    probabilities = rng.dirichlet([0.4] * 4, 30).astype(np.float32)
    best = probabilities.argmax(axis=1)
    text = "".join(characters[k - 1] for k, _ in groupby(best) if k)
    found = read_classes(probabilities, characters)
    assert found.words == tuple(text.split())
    assert found.text == " ".join(text.split())


def test_a_word_is_as_certain_as_its_least_certain_character():
    steps = [("a", 0.9), (None, 0.5), ("b", 0.8), ("b", 0.3), (" ", 0.7), ("a", 0.95), ("a", 0.6)]
    rows = []
    for character, probability in steps:
        row = np.full(4, (1 - probability) / 3)
        row[0 if character is None else 1 + "ab ".index(character)] = probability
        rows.append(row)
    found = read_classes(np.array(rows, np.float32), "ab ")
    assert found.words == ("ab", "a")
    # A repetition and a step without a character do not count; the space behind a word does.
    assert found.certainties == pytest.approx((0.7, 0.95))


@pytest.fixture
def folder(tmp_path):
    for name in (SETTINGS, WEIGHTS):
        shutil.copy(FOLDER / name, tmp_path)
    return tmp_path


def change(folder, **changed):
    """Other values in the configuration; None removes one."""
    file = folder / SETTINGS
    data = {**json.loads(file.read_text("utf-8")), **changed}
    file.write_text(json.dumps({k: v for k, v in data.items() if v is not None}), "utf-8")


def test_a_finder_without_a_line_reader(tmp_path):
    assert load_line_reader(tmp_path) is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"colour": 1}, "colour"), ({"mixer": None}, "mixer"), ({"stem": 0}, "whole numbers"),
        ({"stem": 47}, "channels"),
        ({"heads": 7}, "heads"), ({"height": 46}, "multiple of 4"), ({"characters": "aa"}, "repetitions"),
        ({"blocks": []}, "blocks"), ({"blocks": [{"width": 1}]}, "blocks"), ({"blocks": 5}, "blocks"),
        ({"mixer": 120.0}, "whole numbers"), ({"characters": 5}, "characters"),
    ],
)  # fmt: skip
def test_a_configuration_that_no_line_reader_has(folder, changed, words):
    change(folder, **changed)
    with pytest.raises(ConfigError, match=words):
        load_line_reader(folder)


def test_files_that_do_not_fit(folder):
    change(folder, characters="abc")
    with pytest.raises(ModelError, match="head"):
        load_line_reader(folder)


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_broken_configuration(folder, text):
    (folder / SETTINGS).write_text(text)
    with pytest.raises(ConfigError, match=SETTINGS):
        load_line_reader(folder)


@pytest.mark.parametrize(("gone", "error"), [(SETTINGS, ConfigError), (WEIGHTS, ModelError)])
def test_one_of_two_files(folder, gone, error):
    """A download that was cut off is not taken for a finder without a line reader."""
    (folder / gone).unlink()
    with pytest.raises(error, match=gone):
        load_line_reader(folder)


def test_a_rule_is_no_endless_line():
    page = LeveledPage(Image.new("RGB", (4000, 40), "white"), 0.0, (PageLine((0, 20, 4000, 21), 0),))
    assert [picture.size for picture in line_pictures(page, 48)] == [(6400, 48)]


def test_broken_weights(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:5000])
    with pytest.raises(ModelError, match=WEIGHTS):
        load_line_reader(folder)
