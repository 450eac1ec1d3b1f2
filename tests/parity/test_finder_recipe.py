"""The finder's recipe: its network against the runtime's and against BERT, training, export, measure."""

from __future__ import annotations

import json
import math

import mlx.core as mx
import numpy as np
import pytest
from finders import VOCABULARY, network, random_weights, tiny, write_tokenizer
from mlx.utils import tree_flatten

torch = pytest.importorskip("torch")

from rave_mlx.errors import ModelError, UsageError  # noqa: E402
from rave_mlx.inputs.lines.page_words import PageWord  # noqa: E402
from rave_mlx.models.finder.answer_spans import Span  # noqa: E402
from rave_mlx.models.finder.config import KINDS  # noqa: E402
from rave_mlx.models.finder.finder import Found, load_finder, write_finder  # noqa: E402
from rave_mlx.models.finder.network import FinderInput  # noqa: E402
from rave_mlx.models.finder.word_pieces import WordPieces  # noqa: E402
from recipes.builtin.finder import measure, train  # noqa: E402
from recipes.builtin.finder.examples import Example, batches, collate  # noqa: E402
from recipes.builtin.finder.export import export, packed  # noqa: E402
from recipes.builtin.finder.network import TorchFinder, losses  # noqa: E402
from recipes.builtin.finder.pages import Asked, WordPage, WordSpan  # noqa: E402

SHAPE = tiny(max_positions=400)
CONSTANT = train.TrainConfig(minutes=1e9, warmup_minutes=1e-12, peak=2e-3, peak_new=2e-3)
"""Rates that do not hang on the clock."""


@pytest.fixture
def start(tmp_path):
    """The folder of a small finder with random weights."""
    folder = tmp_path / "start"
    weights = random_weights(SHAPE, 1, 0.05)
    write_finder(folder, SHAPE, weights, write_tokenizer(tmp_path / "pieces.json"), {})
    return folder


def as_torch(weights) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}


def random_input(rng: np.random.Generator, length: int, question: int) -> FinderInput:
    """A page of words at random places, some of them just on the bounds between classes of distance."""
    ids = rng.integers(0, len(VOCABULARY), length)
    on_page = (np.arange(length) >= question) & (np.arange(length) < length - 1)
    places = np.where(on_page[:, None], np.round(rng.uniform(0, 40, (length, 3)), 1), 0).astype(np.float32)
    sizes, starts = (np.where(on_page, rng.integers(1, high, length), 0) for high in (8, 4))
    return FinderInput(ids, places, sizes, starts, question)


def test_the_network_is_that_of_the_runtime():
    """Every score of examples of different lengths in one batch, with random weights."""
    rng = np.random.default_rng(3)
    weights = random_weights(SHAPE, 5, 0.2)
    runtime, trained = network(SHAPE, weights), TorchFinder(SHAPE).eval()
    trained.load_state_dict(as_torch(weights))
    given = [random_input(rng, length, question) for length, question in ((90, 12), (31, 5), (64, 60))]
    with torch.no_grad():
        scores = trained(collate([Example(each, 0, 0, 0) for each in given]))
    for row, each in enumerate(given):
        expected, length = runtime(each), len(each.ids)
        for name, found in (("first", scores.first[row, :length]), ("last", scores.last[row, :length]),
                            ("kinds", scores.kinds[row])):  # fmt: skip
            truth = np.array(getattr(expected, name))
            assert np.abs(found.numpy() - truth).max() < 1e-5 * max(1, np.abs(truth).max()), (row, name)
    with torch.no_grad():  # places count: the same words elsewhere get other scores
        moved = FinderInput(given[0].ids, given[0].places * 3, given[0].sizes, given[0].starts, given[0].page_start)
        assert float((trained(collate([Example(moved, 0, 0, 0)])).first - scores.first[0]).abs().max()) > 1e-2


def test_a_published_encoder_is_taken_as_it_is(tmp_path):
    """What the layers give before any training, against transformers' BERT; its tokenizer likewise."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(2)
    vocabulary = [*VOCABULARY, "##жж", "[unused3]", "ж"]
    shape = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    theirs = transformers.BertModel(shape).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, 0.5 if parameter.dim() == 1 else 0.0, 0.3)
    theirs.save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    run = train.Run(train.TrainConfig(), tmp_path / "bert", tmp_path / "run")
    kept = [piece for piece in vocabulary if piece not in ("[MASK]", "##жж", "[unused3]", "ж")]
    assert run.shape.vocab_size == len(kept) and run.shape.intermediate_size == 96

    text = "What is the Harbour total: 12.50?"
    own = WordPieces(tmp_path / "run" / "tokenizer.json").question(text)
    tokenizer = transformers.BertTokenizer(str(tmp_path / "bert" / "vocab.txt"))
    assert [kept[n] for n in own] == tokenizer.tokenize(text)

    asked = [kept.index("[CLS]"), *own, kept.index("[SEP]")]
    page = [kept.index(piece) for piece in ("in", "##voice", "4", "[SEP]")]
    length, start = len(asked) + len(page), len(asked)
    # Nothing is known of where words stand: sizes, starts and distances add nothing at first.
    given = FinderInput(np.array(asked + page), np.random.default_rng(0).uniform(0, 9, (length, 3)).astype(np.float32),
                        np.full(length, 2), np.full(length, 1), start)  # fmt: skip
    seen: list[torch.Tensor] = []
    run.network.eval().layers[-1].register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        run.network(collate([Example(given, 0, 0, 0)]))
        expected = theirs(
            input_ids=torch.tensor([[vocabulary.index(kept[n]) for n in asked + page]]),
            token_type_ids=torch.tensor([[0] * start + [1] * len(page)]),
        ).last_hidden_state
    assert float((seen[0] - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_what_is_no_encoder_is_refused(tmp_path, start):
    with pytest.raises(UsageError, match="--start"):
        train.Run(CONSTANT, None, tmp_path / "run")
    with pytest.raises(ModelError, match="neither a published encoder"):
        train.Run(CONSTANT, tmp_path, tmp_path / "run")
    (start / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    with pytest.raises(ModelError, match="is not the configuration of a BERT encoder"):
        train.Run(CONSTANT, start, tmp_path / "run")
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 400, "layer_norm_eps": 1e-12}
    (start / "config.json").write_text(json.dumps({"hidden_size": 64, "intermediate_size": 96, **sizes}))
    with pytest.raises(ModelError, match=r"has no embeddings\.word_embeddings\.weight"):
        train.Run(CONSTANT, start, tmp_path / "run")


def test_losses_are_cross_entropies_over_what_may_be_an_answer():
    """Written out in float64 from the network's scores."""
    torch.manual_seed(0)
    rng = np.random.default_rng(8)
    trained = TorchFinder(SHAPE).eval()
    given = [random_input(rng, 40, 9), random_input(rng, 26, 7), random_input(rng, 33, 4)]
    batch = collate([Example(given[0], 11, 13, 0), Example(given[1], 0, 0, 1), Example(given[2], 0, 0, 5)])
    with torch.no_grad():
        scores, found = trained(batch), losses(trained, batch)
    span = kind = 0.0
    for row, (each, weight) in enumerate(zip(given, (1.0, 1.0, 0.3), strict=True)):
        possible = [0, *np.flatnonzero(each.starts)]
        for values, truth in ((scores.first, batch.first), (scores.last, batch.last)):
            own = values[row].double().numpy()
            span += weight * (np.log(np.exp(own[possible]).sum()) - own[truth[row]]) / 2
        own = scores.kinds[row].double().numpy()
        kind += np.log(np.exp(own).sum()) - own[batch.kind[row]]
    assert float(found.span) == pytest.approx(span / 3, rel=1e-5)
    assert float(found.kind) == pytest.approx(kind / 3, rel=1e-5)
    assert float(found.total) == pytest.approx(span / 3 + 0.3 * kind / 3, rel=1e-5)
    assert found.spans == 2


def test_learning_lowers_the_loss_and_resumes_where_it_stopped(tmp_path, start):
    run = train.Run(CONSTANT, start, tmp_path / "run")
    batch = next(batches(1, WordPieces(tmp_path / "run" / "tokenizer.json"), 1500, pool=12))
    first = run.learn(batch)
    for _ in range(25):
        last = run.learn(batch)
    assert last["span"] < 0.8 * first["span"] and last["kind"] < 0.8 * first["kind"]
    run.store()
    again = train.Run(CONSTANT, None, tmp_path / "run")
    assert (again.step, again.examples) == (26, 26 * len(batch.ids)) and again.minutes > run.spent
    for each in (run, again):
        torch.manual_seed(5)  # of what is left out
        each.learn(batch)
    for name, tensor in run.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name
        assert torch.equal(run.mean[name], again.mean[name]), name
    # The mean follows the weights, in the first steps from close behind.
    assert all(not torch.equal(run.mean[name], p) for name, p in run.network.named_parameters())


def test_a_run_is_a_finder_that_says_what_was_trained(tmp_path, start):
    """The mean weights as the runtime reads them."""
    run = train.Run(CONSTANT, start, tmp_path / "run")
    run.learn(next(batches(2, WordPieces(start / "tokenizer.json"), 800, pool=6)))
    run.store()
    finder = load_finder(tmp_path / "run")
    stored = as_torch(dict(tree_flatten(finder.network.parameters())))
    assert stored.keys() == run.mean.keys()
    assert all(torch.equal(stored[name], run.mean[name]) for name in stored)
    again = train.Run(CONSTANT, tmp_path / "run", tmp_path / "next")  # another run goes on from it
    assert again.step == 0 and all(torch.equal(p, run.mean[n]) for n, p in again.network.named_parameters())


def test_the_command_trains_in_time(tmp_path, start):
    config = train.TrainConfig(minutes=0.1, tokens=600, threads=1, peak=1e-3)
    train.train(config, start, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["step"] >= 1 and state["minutes"] >= 0.1
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])["config"]["tokens"] == 600
    train.train(config, None, tmp_path / "run")  # its time is over
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == state["step"]


def test_rates_warm_up_and_fall():
    config = train.TrainConfig(minutes=100, warmup_minutes=2)
    assert [round(train.rate(m, config), 4) for m in (0, 1, 2, 10, 55, 82, 99, 130)] == [
        0.02, 0.5, 1, 1, 0.5, 0.2, 0.02, 0.02,
    ]  # fmt: skip


def test_export_packs_large_matrices(tmp_path, start):
    weights = dict(tree_flatten(load_finder(start).network.parameters()))
    export(start, tmp_path / "plain", 16, 16)
    plain = dict(tree_flatten(load_finder(tmp_path / "plain").network.parameters()))
    assert all(np.array_equal(plain[name], weights[name]) for name in weights)  # they were float16 before

    export(start, tmp_path / "packed", temperature=1.5)
    finder = load_finder(tmp_path / "packed")
    assert finder.config.temperature == 1.5 and finder.config.hidden_size == SHAPE.hidden_size
    found = dict(tree_flatten(finder.network.parameters()))
    bits, stored = packed(weights, 6, 4), mx.load(str(tmp_path / "packed" / "model.safetensors"))
    assert {name.split(".")[0] for name in bits} == {"words", "positions", "layers"}
    for name, array in weights.items():
        error, own = np.abs(np.array(found[name]) - np.array(array)), np.array(array)
        if name not in bits:
            assert error.max() == 0, name
            continue
        # MLX moves the steps so that zero is one: an error of half a step, and another half at the far end.
        groups = own.reshape(*own.shape[:-1], -1, 64)
        step = (groups.max(-1) - groups.min(-1)) / (2 ** bits[name] - 1)
        assert (error.reshape(groups.shape) <= (1.1 * step + 1e-3 * np.abs(groups).max(-1))[..., None]).all(), name
        assert 32 * stored[name].shape[-1] / own.shape[-1] == bits[name] == (6 if "layers" in name else 4)
    sizes = [(tmp_path / kind / "model.safetensors").stat().st_size for kind in ("plain", "packed")]
    assert sizes[1] < 0.55 * sizes[0]
    with pytest.raises(ModelError, match="exists already"):
        export(start, tmp_path / "packed")


def test_rows_that_are_no_multiple_of_a_group_stay_unpacked():
    shapes = {"words.weight": (9, 64), "layers.0.down.weight": (64, 96), "layers.0.up.weight": (96, 64),
              "layers.0.up.bias": (64,), "near": (39, 64)}  # fmt: skip
    weights = {name: mx.zeros(shape) for name, shape in shapes.items()}
    assert packed(weights, 6, 4) == {"words.weight": 4, "layers.0.up.weight": 6}
    assert packed(weights, 16, 3) == {"words.weight": 3}


def test_measure_asks_for_the_very_words():
    words = tuple(PageWord(text, 10.0 * i, 0.0, 10.0 * i + 8, 10.0) for i, text in enumerate(("12.50", "EUR", "12.50")))
    page = WordPage(words, (), "card")
    asked = Asked("Total?", "span", "12.50 EUR", (WordSpan(0, 0, 1, 3),), "value", "payable")
    sure = dict.fromkeys(KINDS, 0.02) | {"span": 0.8, "absent": 0.04}

    def judged(spans, absent=0.1, kinds=sure, asked=asked):
        found = measure.judge(Found(kinds, tuple(spans), absent), asked, page, {"sort": asked.sort})
        return found.answer, found.right, round(found.certainty, 4)

    assert judged([Span("12.50 EUR", (0, 1), 0.8), Span("12.50", (2,), 0.1)]) == ("12.50 EUR", True, 0.672)
    assert judged([Span("EUR 12.50", (1, 2), 0.8)]) == ("EUR 12.50", False, 0.672)
    assert judged([Span("12.50", (0,), 0.8)]) == ("12.50", False, 0.672)
    assert judged([Span("12.50 EUR", (0, 1), 0.3)], absent=0.7) == ("absent", False, 0.588)
    nowhere = Asked("IBAN?", "absent", "not found", (), "absent", "iban")
    assert judged([Span("12.50 EUR", (0, 1), 0.3)], 0.7, asked=nowhere) == ("absent", True, 0.588)
    yes = dict.fromkeys(KINDS, 0.0) | {"yes": 0.9, "span": 0.1}
    switch = Asked("Is it on?", "yes", "yes", (), "yesno", "switch")
    assert judged([Span("12.50", (0,), 1.0)], 0.0, yes, switch) == ("yes", True, 0.9)
    assert judged([Span("12.50", (0,), 1.0)], 0.0, yes) == ("yes", False, 0.9)


def test_a_table_counts_the_right_and_the_sure():
    def row(sort, right, certainty):
        return measure.Answered({"sort": sort}, "?", "a", "b", right, certainty)

    rows = [row("value", True, 0.95), row("value", False, 0.95), row("value", True, 0.5), row("absent", False, 0.1)]
    lines = [line.split() for line in measure.table(rows, "sort")]
    assert lines == [
        ["sort", "asked", "right", "sure", "right"],
        ["value", "3", "0.667", "2", "0.500"],
        ["absent", "1", "0.000", "0", "-"],
        ["all", "4", "0.500", "2", "0.500"],
    ]


def test_held_out_pages_are_asked(start):
    """An untrained finder is asked about every split, and is seldom right."""
    rows = list(measure.measure(load_finder(start), 1))
    assert {row.tags["split"] for row in rows} == set(measure.SPLITS)
    assert all(math.isfinite(row.certainty) for row in rows) and 5 < len(rows) <= 30
    assert sum(row.right for row in rows) < len(rows) / 2
