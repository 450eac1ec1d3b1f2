"""A finder in its folder: written, packed, read again, refused; and pages that are longer than it reads at a time."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from finders import VOCABULARY, network, random_weights, tiny, write_pointer, write_tokenizer
from mlx.utils import tree_flatten

from rave_mlx.errors import ConfigError, ModelError
from rave_mlx.inputs.lines.page_words import PageWord
from rave_mlx.models.finder.answer_spans import over_windows, read_spans
from rave_mlx.models.finder.config import KINDS, FinderConfig
from rave_mlx.models.finder.finder import Finder, load_finder, write_finder
from rave_mlx.models.finder.word_pieces import Piece, WordPieces

CONFIG = tiny(instruction="Read it.", temperature=1.5)


@pytest.fixture
def tokenizer(tmp_path):
    return write_tokenizer(tmp_path / "pieces.json")


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A folder with a random finder."""
    write_finder(tmp_path / "finder", CONFIG, random_weights(CONFIG), tokenizer, {})
    return tmp_path / "finder"


def column(count, texts=("total", "in", "7")):
    """A page of one column, a word in a row."""
    return [PageWord(texts[i % len(texts)], 10, 20 * i, 50, 20 * i + 10) for i in range(count)]


def steps_of(array, bits):
    """How far the values that a packed number can have lie apart, in each group of 64 of a row; float64."""
    out = np.empty(array.shape)
    for row in range(array.shape[0]):
        for start in range(0, array.shape[1], 64):
            group = array[row, start : start + 64].astype(np.float64)
            step = (group.max() - group.min()) / (2**bits - 1)
            out[row, start : start + 64] = step
    return out


def test_a_finder_is_read_as_it_was_written(folder, tokenizer):
    weights = random_weights(CONFIG)
    found = load_finder(folder)
    assert found.config == CONFIG
    assert found.pieces.size == len(VOCABULARY)
    read = dict(tree_flatten(found.network.parameters()))
    assert set(read) == set(weights)
    for name, array in weights.items():
        assert read[name].dtype == mx.float32
        np.testing.assert_array_equal(np.array(read[name]), np.array(array.astype(mx.float16).astype(mx.float32)))
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    assert load_finder(folder) is found


def test_packed_weights_are_off_by_a_step_at_most(tmp_path, tokenizer):
    weights = random_weights(CONFIG)
    matrices = ("words.weight", "layers.0.qkv.weight", "layers.1.qkv.weight", "layers.1.up.weight")
    bits = dict(zip(matrices, (8, 6, 4, 8), strict=True))
    write_finder(tmp_path / "packed", CONFIG, weights, tokenizer, bits)
    read = dict(tree_flatten(load_finder(tmp_path / "packed").network.parameters()))
    for name, array in weights.items():
        difference = np.abs(np.array(read[name], np.float64) - np.array(array, np.float64))
        if name in bits:
            steps = steps_of(np.array(array), bits[name])
            # Half a step, and half a step more for an end of the group that mlx moves so that 0 stays 0; scales and
            # ends are rounded to float16.
            largest = np.abs(np.array(array)).max()
            assert (difference <= 1.01 * steps + 4 * 2.0**-11 * largest).all()
            assert difference.mean() > 0.1 * steps.mean()
        else:
            assert (difference <= 2.0**-11 * np.abs(np.array(array)) + 2.0**-25).all()
    errors = [np.abs(np.array(read[n]) - np.array(weights[n])).mean() for n in matrices[:3]]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"), ("{", "cannot be read"), ("[]", "expected a JSON object"), ("{}", "no vocab_size"),
        ('{"vocab_size": 9, "layers": 3}', "layers: not the configuration of a finder"),
        ('{"vocab_size": 0}', "above 0"), ('{"vocab_size": 9, "num_heads": 7}', "heads must divide hidden_size"),
        ('{"vocab_size": 9, "num_heads": "12"}', "sizes must be whole numbers"),
        ('{"vocab_size": 9, "intermediate_size": 0.5}', "sizes must be whole numbers"),
        ('{"vocab_size": 9, "num_layers": true}', "sizes must be whole numbers"),
        ('{"vocab_size": 9, "max_positions": 64}', "max_positions is 64"),
        ('{"vocab_size": 9, "temperature": 0}', "temperature is 0"),
        ('{"vocab_size": 9, "temperature": NaN}', "temperature is nan"),
        ('{"vocab_size": 9, "temperature": "1"}', "temperature is '1'"),
        ('{"vocab_size": 9, "norm_eps": null}', "norm_eps is None"),
        ('{"vocab_size": 9, "instruction": 3}', "instruction"),
    ],
)  # fmt: skip
def test_configurations_that_are_none(folder, text, message):
    file = folder / "config.json"
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_finder(folder)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def broken(stored, name):
    """Tensors of a file with something wrong about them."""
    wrong = dict(stored)
    if name == "missing":
        del wrong["layers.1.qkv.weight"]
    elif name == "shape":
        wrong["layers.1.qkv.weight"] = stored["layers.1.out.weight"]
    else:
        q, scales, biases = mx.quantize(stored["layers.1.qkv.weight"].astype(mx.float32), group_size=64, bits=4)
        parts = {"": q, ".scales": scales, ".biases": biases}
        if name == "shape of the packed":
            parts[""] = q[:, :3]
        elif name == "shape of scales":
            parts[".scales"] = scales[:5]
        elif name == "no group":
            parts[".scales"] = mx.zeros((scales.shape[0], 3 * CONFIG.hidden_size))
        else:
            del parts[name]
            if name == "":
                del wrong["layers.1.qkv.weight"]
        wrong |= {f"layers.1.qkv.weight{end}": array for end, array in parts.items()}
    return wrong


@pytest.mark.parametrize(
    "name", ["missing", "shape", ".biases", "", "shape of the packed", "shape of scales", "no group"]
)
def test_weights_that_do_not_fit(folder, name):
    file = folder / "model.safetensors"
    stored = broken(mx.load(str(file)), name)
    mx.eval(stored)
    file.unlink()
    mx.save_safetensors(str(file), stored)
    with pytest.raises(ModelError, match=r"model.safetensors: layers.1.qkv.weight is missing or") as caught:
        load_finder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, b"", b"no tensors here, but some text"])
def test_files_of_weights_that_are_none(folder, text):
    file = folder / "model.safetensors"
    file.unlink()
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(ModelError) as caught:
        load_finder(folder)
    assert str(caught.value).startswith(f"{file}: cannot be read")


def test_a_tokenizer_of_another_size(folder):
    write_tokenizer(folder / "tokenizer.json", (*VOCABULARY, "more"))
    with pytest.raises(
        ModelError, match=f"{len(VOCABULARY) + 1} pieces, the configuration {len(VOCABULARY)}"
    ) as caught:
        load_finder(folder)
    assert str(folder) in str(caught.value)


def pieces_of(starts):
    return [Piece(5, i, 0, 1, (0.0, 0.0, 0.0), 1, start) for i, start in enumerate(starts)]


@pytest.mark.parametrize("most", [2, 20, 65, 128, 450])
@pytest.mark.parametrize("rows", [0.0, 0.1, 1.0])
def test_windows_cover_every_piece(most, rows):
    rng = np.random.default_rng(most)
    for length in (0, 1, most - 1, most, most + 1, 3 * most, 1200):
        page = pieces_of(np.where(rng.random(length) < rows, 3, 1))
        windows = Finder._windows(page, most)
        assert all(len(window) <= most for window in windows)
        assert windows[0][:1] == page[:1]
        ends = 0
        for before, window in zip([None, *windows], windows, strict=False):
            first = window[0].word if window else 0
            assert [piece.word for piece in window] == list(range(first, first + len(window)))
            assert first <= ends  # nothing is left out
            if before is not None:
                assert first > before[0].word
                shared = ends - first
                # Half of what is read at a time is shared at most; 60 pieces at least, where half is more.
                assert min(60, most // 2) <= shared <= most - most // 2
                row_starts = [p.word for p in before[most // 2 : most - min(60, most // 2)] if p.starts == 3]
                assert not row_starts or first == row_starts[-1]
            ends = first + len(window)
        assert ends == length
        assert len(windows) == 1 or len(windows[-2]) == most


def test_a_short_page_is_read_at_once(folder):
    """What `find` gives is what the network's scores, divided by the temperature, give."""
    found, words = load_finder(folder).find("what is the total", column(9)), column(9)
    pieces = WordPieces(folder / "tokenizer.json")
    asked, page = pieces.question("what is the total"), pieces.page(words)
    given = pieces.join(asked, page)
    rounded = {name: array.astype(mx.float16).astype(mx.float32) for name, array in random_weights(CONFIG).items()}
    scores = network(CONFIG, rounded)(given)
    expected = read_spans(np.array(scores.first) / 1.5, np.array(scores.last) / 1.5, given.page_start, page, words)
    assert [(s.text, s.words) for s in found.spans] == [(s.text, s.words) for s in expected.spans]
    assert [s.probability for s in found.spans] == pytest.approx([s.probability for s in expected.spans], rel=1e-4)
    assert found.absent == pytest.approx(expected.absent, rel=1e-4)
    powers = np.exp(np.array(scores.kinds, np.float64))
    assert list(found.kinds) == list(KINDS)
    assert list(found.kinds.values()) == pytest.approx(list(powers / powers.sum()), rel=1e-4)


def test_a_long_page_is_read_in_windows(folder):
    finder, words = load_finder(folder), column(300)
    found = finder.find("what is the total", words)
    pieces = finder.pieces.page(words)
    asked = finder.pieces.question("what is the total")
    windows = finder._windows(pieces, CONFIG.max_positions - len(asked) - 3)
    assert len(windows) > 3
    parts = []
    for window in windows:
        given = finder.pieces.join(asked, window)
        assert len(given.ids) <= CONFIG.max_positions
        scores = finder.network(given)
        first, last = (np.array(each) / 1.5 for each in (scores.first, scores.last))
        parts.append(read_spans(first, last, given.page_start, window, words))
    expected = over_windows(parts)
    assert [(s.text, s.words) for s in found.spans] == [(s.text, s.words) for s in expected.spans]
    assert found.absent == pytest.approx(expected.absent, rel=1e-4)


@pytest.mark.parametrize("place", [0, 5, 150, 297])
def test_an_answer_is_found_wherever_it_stands(tmp_path, place):
    write_pointer(tmp_path / "finder", "harbour")
    words = column(299)
    words[place] = PageWord("Harbour", *[getattr(words[place], side) for side in ("left", "top", "right", "bottom")])
    found = load_finder(tmp_path / "finder").find("in the what?", words)
    assert (found.spans[0].text, found.spans[0].words) == ("Harbour", (place,))
    assert found.spans[0].probability > 0.99
    assert found.kinds["span"] > 0.99
    absent = load_finder(tmp_path / "finder").find("in the what?", column(299))
    assert absent.absent > 0.9


def test_a_page_whose_words_have_no_pieces(folder):
    found = load_finder(folder).find("what?", [PageWord("\u200b", 0, 0, 5, 5)])
    assert (found.spans, found.absent) == ((), 1.0)


def test_the_least_and_the_largest_configuration():
    assert FinderConfig.from_dict({"vocab_size": 7}, "x").hidden_size == 384
    assert FinderConfig.from_dict({"vocab_size": 7, "max_positions": 128, "temperature": 2}, "x").temperature == 2
