"""The ablation's parts against the package's gate, against each other, and against scipy."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")
scipy_stats = pytest.importorskip("scipy.stats")

from support import TEXT  # noqa: E402

import rave_mlx  # noqa: E402
from rave_mlx.attention.gate import PairGate, squash  # noqa: E402
from rave_mlx.config import GateConfig  # noqa: E402
from recipes.ablation import runs  # noqa: E402
from recipes.ablation.at_test_time import answered, as_checkpoint  # noqa: E402
from recipes.ablation.measure import held_out, measure  # noqa: E402
from recipes.ablation.model import SHAPE, Gate, add, make  # noqa: E402
from recipes.ablation.pages import KINDS, LAYOUTS, QUESTION_TOKENS, make_batch, with_fewer  # noqa: E402
from recipes.ablation.picture import picture  # noqa: E402
from recipes.ablation.runs import Budget, Outcome  # noqa: E402
from recipes.ablation.table import by_name, difference, table  # noqa: E402
from recipes.ablation.train import PLAIN, Plan, loss_of, train  # noqa: E402
from recipes.ablation.variants import VARIANTS, GateForm, Variant  # noqa: E402
from recipes.builtin.data import ALPHABET  # noqa: E402
from recipes.builtin.losses import see  # noqa: E402
from recipes.builtin.tokens import TURN_END, encode  # noqa: E402

TINY = replace(SHAPE, width=32, depth=2, heads=2, kv_heads=2, head_dim=16, mlp=32, rope_sections=(2, 3, 3))


def tiny(seed=0):
    torch.manual_seed(seed)
    return make(TINY)


@pytest.mark.parametrize("kind", ["tanh", "identity", "suppress", "boost"])
def test_the_gate_is_that_of_the_package(kind):
    torch.manual_seed(0)
    gate = Gate(SHAPE, GateForm(squash=kind))
    for p in gate.parameters():
        torch.nn.init.normal_(p)
    text = replace(TEXT, num_heads=4, num_kv_heads=2, head_dim=32, rope=replace(TEXT.rope, sections=None))
    ours = PairGate(GateConfig(kv_groups=1.0, squash=kind), text)
    ours.update({name: mx.array(p.detach().numpy()) for name, p in gate.named_parameters()})
    q, k = torch.randn(2, 4, 5, 32), torch.randn(2, 2, 7, 32)
    u = ours.query_features(mx.array(q.numpy()))
    v = ours.key_features(mx.array(k.numpy()), mx.ones((2, 7), mx.bool_))
    bias = squash(u @ mx.repeat(v, 2, axis=1).swapaxes(2, 3), kind, 4.0)
    np.testing.assert_allclose(gate(q, k).detach().numpy(), np.array(bias), rtol=2e-5, atol=2e-5)


def test_ungated_groups_get_no_bias():
    gate = Gate(SHAPE, GateForm(groups=1))
    torch.nn.init.ones_(gate.beta)
    bias = gate(torch.randn(1, 4, 3, 32), torch.randn(1, 2, 3, 32))
    assert bias[:, 2:].abs().max() == 0
    assert bias[:, :2].abs().min() > 0.9


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if not variant.mutual])
def test_a_variant_changes_nothing_at_first_and_can_learn(name):
    variant = VARIANTS[name]
    batch = make_batch(np.random.default_rng(1), "easy", 2)
    model = tiny()
    before = loss_of(model, batch, Plan(1), PLAIN, False)
    added = add(model, variant)
    after = loss_of(model, batch, Plan(1), PLAIN, False)
    assert float(after.detach()) == pytest.approx(float(before.detach()), abs=1e-6)
    after.backward()
    if variant.gate or variant.lora or variant.wider:
        assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in added)
    assert all(p.requires_grad != variant.frozen for n, p in model.named_parameters() if "norm" in n)


def test_what_is_added_is_as_large():
    def count(name):
        return sum(p.numel() for p in add(make(), VARIANTS[name]))

    assert count("pair r=14") == 4 * 2884
    assert count("lora") == 4 * 2880
    assert count("wider") == 4 * 3072
    assert count("constant") == 4 * 4


@pytest.mark.parametrize("kind", KINDS)
def test_answers_stand_where_the_targets_say(kind):
    batch = make_batch(np.random.default_rng(3), kind, 3)
    cells = batch.cells.reshape(3, -1, batch.cells.shape[-1])
    for page in range(3):
        for number in range(LAYOUTS[kind].questions):
            own = batch.segment[page] == number
            label, target = batch.label[page][own], batch.target[page][own]
            answer = label[label >= 0]
            assert answer[-1] == TURN_END
            where = set(target[target >= 0].tolist())
            assert len(where) == 1
            shown = "".join(ALPHABET[c - 1] for c in cells[page, where.pop()][1:5] if c)
            assert encode(shown[-2:]) == answer[:-1].tolist()
    again = make_batch(np.random.default_rng(3), kind, 3)
    assert all(np.array_equal(a, b) for a, b in zip(vars(batch).values(), vars(again).values(), strict=True))


def greedy(model, image, grid, question, most):
    """The answer written token by token, one question at a time."""
    ids = encode(question)
    start, tokens = len(ids), see(model, image)
    while len(ids) < start + most:
        row = torch.tensor([ids])
        place = torch.arange(len(ids))[None]
        hidden = model.decode(tokens, grid, row, torch.zeros_like(row), place).hidden
        ids.append(int(model.logits(hidden)[0, -1].argmax()))
    return ids[start:]


def test_an_answer_counts_when_greedy_decoding_writes_it(tmp_path):
    model = tiny(2)
    train(model, Variant(), Plan(30, pages=8, seed=5), kinds=("easy",))
    measured = measure(model, Variant(), "easy", 8)
    as_checkpoint(model, tmp_path / "reader")
    by_package = answered(rave_mlx.load(tmp_path / "reader"), "easy", "none", 8)
    assert by_package == [np.mean(page) for page in measured.right]
    batch = next(iter(held_out("easy", 8)))
    grid = batch.rows.shape[1:]
    for page in range(8):
        for number, counted in enumerate(measured.right[page]):
            own = batch.segment[page] == number
            ids, label = batch.ids[page][own], batch.label[page][own]
            truth = label[label >= 0].tolist()
            text = bytes(i - 10 for i in ids[: len(ids) - len(truth)]).decode()
            written = greedy(model, torch.from_numpy(batch.image[page : page + 1]), grid, text, len(truth))
            assert (written == truth) == counted


def test_looking_is_a_distribution():
    looking = measure(tiny(), Variant(), "list", 8).looking
    assert looking.visual.shape == (2, 2)
    assert bool(((looking.visual > 0) & (looking.visual < 1)).all())
    assert bool((looking.target <= looking.visual).all())
    # A fresh model looks everywhere alike.
    cells = next(iter(held_out("list", 8))).cells
    assert float(looking.empty.mean()) == pytest.approx(1 - (cells[..., 1] > 0).mean(), abs=0.05)


def test_a_training_goes_on_from_its_state(tmp_path, monkeypatch):
    monkeypatch.setattr("recipes.ablation.train.CHUNK", 2)
    plan = Plan(5, pages=2)
    whole, state = tiny(), tmp_path / "state.pt"
    train(whole, Variant(), plan)

    class StoppedError(Exception):
        pass

    def stop(step, loss):
        if step == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(tiny(), Variant(), plan, report=stop, state=state)
    steps, again = [], tiny(9)
    train(again, Variant(), plan, report=lambda step, loss: steps.append(step), state=state)
    assert steps == [2, 3, 4]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def fake(name, seed, right):
    nothing = dict.fromkeys(KINDS, 0.0)
    layers = {kind: [0.0] for kind in KINDS}
    return Outcome(name, seed, 0, 0.0, dict.fromkeys(KINDS, right), nothing, nothing, layers, layers)


def test_the_interval_is_that_of_scipy():
    rng = np.random.default_rng(0)
    first = [fake("a", s, (rng.random((60, 6)) < 0.6).tolist()) for s in (1, 2)]
    second = [fake("b", s, (rng.random((60, 6)) < 0.5).tolist()) for s in (1, 2, 3)]
    found = difference(first, second, ["list"])
    pages = np.mean([np.mean(a.right["list"], 1) - np.mean(b.right["list"], 1) for a, b in zip(first, second)], 0)  # noqa: B905
    theirs = scipy_stats.bootstrap((pages,), np.mean, n_resamples=10_000, method="percentile", rng=1)
    assert found.mean == pytest.approx(pages.mean())
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval), abs=0.004)
    assert len(found.by_seed) == 2
    with pytest.raises(ValueError, match="no seed in common"):
        difference([fake("a", 1, [[True]])], [fake("b", 2, [[True]])])


def test_runs_go_on_where_they_were_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "make", lambda shape=TINY: make(shape))
    monkeypatch.setattr("recipes.ablation.measure.PAGES", 2)
    budget = Budget(Plan(2, pages=2), (1, 1, 1), 8, ("none", "pair r=14", "constant"), 2)
    said = []
    first = runs.run_all(tmp_path, budget, said.append)
    assert [(o.name, o.seed) for o in first] == [
        ("none", 1), ("pair r=14", 1), ("none", 2), ("pair r=14", 2), ("constant", 1), ("constant", 2)
    ]  # fmt: skip
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    (tmp_path / "runs.jsonl").write_text("\n".join(lines[:3]) + "\n")
    again = runs.run_all(tmp_path, budget, said.append)
    same = [{k: v for k, v in vars(o).items() if k != "seconds"} for o in again]
    assert same == [{k: v for k, v in vars(o).items() if k != "seconds"} for o in first]
    rates = json.loads((tmp_path / "rates.json").read_text())
    assert rates.keys() == {"gate"}
    assert rates["gate"] in runs.RATES
    assert sum("rate of gate" in line for line in said) == 1
    start = runs.measure_start(runs.the_start(tmp_path, budget.start, said.append), budget)
    text = table(again, start)
    assert text.count("\n") == 5
    assert json.loads(lines[0])["name"] == "none"


def test_with_the_mutual_mask_the_image_sees_the_question_and_nothing_else():
    """Written out as a mask of one page and one question, on the reader with a causal mask."""
    batch = with_fewer(make_batch(np.random.default_rng(7), "easy", 2), 3)
    ids, segment, place = (torch.from_numpy(a) for a in (batch.ids, batch.segment, batch.place))
    model, grid = tiny(4), batch.rows.shape[1:]
    tokens = see(model, torch.from_numpy(batch.image))
    causal_states = model.decode(tokens, grid, ids, segment, place).hidden
    model.mutual = True
    states = model.decode(tokens, grid, ids, segment, place).hidden
    assert states.shape == causal_states.shape
    assert not torch.allclose(states, causal_states, atol=1e-4)
    changed = ids.clone()
    changed[:, 5 + QUESTION_TOKENS + 1] += 1  # an answer's token of the second question
    again = model.decode(tokens, grid, changed, segment, place).hidden
    same = torch.isclose(states, again, atol=1e-6).all(-1)
    assert same[:, : 5 + QUESTION_TOKENS + 1].all()
    assert same[:, 10:].all()
    assert not same[:, 5 + QUESTION_TOKENS + 1 : 10].any()
    changed = ids.clone()
    changed[:, 5 + QUESTION_TOKENS - 1] += 1  # a letter that only the image before it can have told the first about
    again = model.decode(tokens, grid, changed, segment, place).hidden
    assert not torch.isclose(states, again, atol=1e-6).all(-1)[:, 5].any()


def test_fewer_questions_are_the_first_of_the_same_pages():
    batch = make_batch(np.random.default_rng(8), "cards", 2)
    fewer = with_fewer(batch, 3)
    assert fewer.ids.shape == (2, 15)
    assert np.array_equal(fewer.ids, batch.ids[:, :15])
    assert fewer.image is batch.image
    assert loss_of(tiny(), fewer, Plan(1), PLAIN, False).isfinite()


def test_what_the_document_says_is_what_the_stored_runs_give():
    folder = Path(__file__).parents[2] / "docs"
    stored, text = runs.outcomes(folder / "evidence-runs.jsonl.gz"), (folder / "evidence.md").read_text()
    assert len(stored) == 91
    rows = table(stored).splitlines()[2:]
    for row in rows:
        # Frozen ones are compared with the start, which is not among the runs.
        assert (
            row.rpartition(" | ")[0] if not row.startswith("| frozen") else " | ".join(row.split(" | ")[:7])
        ) in text
    groups = by_name(stored)
    against = difference(groups["pair r=14"], groups["lora"])
    assert (
        f"| pair r=14 − lora | {against.mean:+.4f} | {against.interval[0]:+.4f} to {against.interval[1]:+.4f} |" in text
    )
    shapes = ElementTree.fromstring(picture(stored))
    assert (folder / "evidence.svg").read_text() == picture(stored)
    assert len([shape for shape in shapes if shape.tag.endswith("circle")]) == 91
