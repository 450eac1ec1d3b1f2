"""The runs of the ablation on disk: the start, and a line for each variant and seed; finished ones are kept."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from recipes.ablation.measure import Measured, measure
from recipes.ablation.model import make
from recipes.ablation.mutual import Reader
from recipes.ablation.pages import DENSE, KINDS, Kind
from recipes.ablation.train import CHUNK, DENSER, Plan, train
from recipes.ablation.variants import SEVERAL, TRIED, VARIANTS, Variant

FINE = Plan(steps=0, muon=6e-4, adamw=3e-4, steady=0.2)
"""How variants are trained; steps, seed and the rate of what is added are put in."""
RATES = (3e-3, 1e-2, 3e-2)
"""Rates that are tried for what a variant adds."""
FEWER_PAGES = 4
"""Pages are divided by it for what is not the primary outcome."""
RATE_SEED = 9
"""Of the runs that try them."""


@dataclass(frozen=True)
class Budget:
    """How much is run.

    Attributes:
        start: steps of the common start.
        steps: of a variant that trains the whole model, of one that trains what is added, and of one with few
            questions.
        pages: held-out pages of the dense kind; a quarter of them of each other kind, and with few questions.
        names: variants.
        seeds: most runs of a variant.
    """

    start: Plan
    steps: tuple[int, int, int]
    pages: int
    names: tuple[str, ...]
    seeds: int


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        name: of the variant.
        seed: of its pages.
        added: parameters that the variant added.
        seconds: of the processor, training only.
        right: by kind of page, whether each question was answered exactly, page by page.
        loss: by kind.
        pointing: by kind, see `Looking.pointing`.
        visual, empty: by kind, as of `Looking`, mean of the heads of each layer.
    """

    name: str
    seed: int
    added: int
    seconds: float
    right: dict[str, list[list[bool]]]
    loss: dict[str, float]
    pointing: dict[str, float]
    visual: dict[str, list[float]]
    empty: dict[str, list[float]]


def the_start(out: Path, plan: Plan, report: Callable[[str], None]) -> Reader:
    """The reader that every variant starts from, trained or read from `out`."""
    file = out / "start.pt"
    torch.manual_seed(plan.seed)
    model = make()
    if file.is_file():
        model.load_state_dict(torch.load(file, weights_only=True))
        return model

    def say(step: int, loss: float) -> None:
        if step % CHUNK == CHUNK - 1:
            report(f"start: step {step + 1} of {plan.steps}, loss {loss:.3f}")

    train(model, Variant(), plan, report=say, state=out / "start.state.pt")
    fresh = file.with_suffix(".new")
    torch.save(model.state_dict(), fresh)
    fresh.replace(file)
    return model


def the_rates(out: Path, start: Reader, budget: Budget, report: Callable[[str], None]) -> dict[str, float]:
    """The learning rate of each addition: the best of `RATES`, chosen now or read from `out`.

    The best has the least loss on dense pages after a frozen run with a seed that no other run has.
    """
    file = out / "rates.json"
    chosen: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    used = {VARIANTS[name].addition for name in budget.names}
    for addition in (a for a in TRIED if a in used and a not in chosen):
        losses = {rate: _tried(start, VARIANTS[TRIED[addition]], rate, budget) for rate in RATES}
        chosen[addition] = min(losses, key=lambda rate: losses[rate])
        tried = ", ".join(f"{rate:g}: {loss:.3f}" for rate, loss in losses.items())
        report(f"rate of {addition}: {chosen[addition]:g} (loss on dense pages {tried})")
        file.write_text(json.dumps(chosen), encoding="utf-8")
    return chosen


def _tried(start: Reader, variant: Variant, rate: float, budget: Budget) -> float:
    model = make(start.c)
    model.load_state_dict(start.state_dict())
    train(model, variant, replace(FINE, seed=RATE_SEED, steps=budget.steps[1], added=rate), DENSER)
    return measure(model, variant, DENSE[0], max(1, budget.pages // FEWER_PAGES)).loss


def outcomes(file: Path) -> list[Outcome]:
    """The runs of a results file, in order; it may be packed by gzip."""
    if not file.is_file():
        return []
    data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return [Outcome(**json.loads(line)) for line in data.decode("utf-8").splitlines()]


def todo(budget: Budget, done: Sequence[Outcome]) -> Iterator[tuple[str, Variant, int]]:
    """Runs that are left, those of the primary comparisons before all others, seed by seed."""
    there = {(outcome.name, outcome.seed) for outcome in done}
    several = [name for name in budget.names if VARIANTS[name].seeds == SEVERAL]
    others = [name for name in budget.names if VARIANTS[name].seeds != SEVERAL]
    for name, seed in [(n, s) for names in (several, others) for s in range(1, budget.seeds + 1) for n in names]:
        if seed <= VARIANTS[name].seeds and (name, seed) not in there:
            yield name, VARIANTS[name], seed


def run_one(
    start: Reader, name: str, variant: Variant, seed: int, budget: Budget, rates: Mapping[str, float]
) -> Outcome:
    """Train a variant from the start, what it adds at the rate of its kind, and measure it."""
    model = make(start.c)
    model.load_state_dict(start.state_dict())
    plan = replace(FINE, seed=seed, steps=budget.steps[2 if variant.questions else int(variant.frozen)])
    plan = replace(plan, muon=plan.muon * variant.rate, adamw=plan.adamw * variant.rate)
    if variant.addition is not None:
        plan = replace(plan, added=variant.added_rate or rates[variant.addition])
    before = sum(p.numel() for p in model.parameters())
    seconds = train(model, variant, plan, DENSER)
    measured = _measured(model, variant, budget)
    added = sum(p.numel() for p in model.parameters()) - before
    return Outcome(name, seed, added, seconds, **_figures(measured))


def measure_start(start: Reader, budget: Budget) -> Outcome:
    """The common start as it is, with no seed of its own."""
    measured = _measured(start, Variant(), budget)
    return Outcome("start", 0, 0, 0.0, **_figures(measured))


def _measured(model: Reader, variant: Variant, budget: Budget) -> dict[Kind, Measured]:
    """What a reader gets right on pages of every kind."""
    fewer = max(1, budget.pages // FEWER_PAGES)
    return {
        kind: measure(model, variant, kind, budget.pages if kind in DENSE and not variant.questions else fewer)
        for kind in KINDS
    }


def _figures(measured: dict[Any, Measured]) -> dict[str, Any]:
    return {
        "right": {kind: m.right for kind, m in measured.items()},
        "loss": {kind: m.loss for kind, m in measured.items()},
        "pointing": {kind: m.looking.pointing() for kind, m in measured.items()},
        "visual": {kind: m.looking.visual.mean(1).tolist() for kind, m in measured.items()},
        "empty": {kind: m.looking.empty.mean(1).tolist() for kind, m in measured.items()},
    }


def run_all(out: Path, budget: Budget, report: Callable[[str], None]) -> list[Outcome]:
    """Run what is left, and give everything that is there.

    Args:
        out: folder of `start.pt`, `rates.json` and `runs.jsonl`; finished runs are kept, one that was stopped is begun
            anew.
        budget: how much to run.
        report: called with a line at a time.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / "runs.jsonl"
    start = the_start(out, budget.start, report)
    rates = the_rates(out, start, budget, report)
    for name, variant, seed in todo(budget, outcomes(file)):
        outcome = run_one(start, name, variant, seed, budget, rates)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(vars(outcome)) + "\n")
        shares = ", ".join(f"{kind} {mean(outcome, kind):.3f}" for kind in KINDS)
        report(f"{name}, seed {seed}: {shares}; {outcome.seconds:.0f} s")
    return outcomes(file)


def mean(outcome: Outcome, kind: str) -> float:
    """Share of questions about a kind of page that were answered exactly."""
    answers = [one for page in outcome.right[kind] for one in page]
    return sum(answers) / len(answers)
