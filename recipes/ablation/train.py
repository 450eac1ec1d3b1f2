"""Training: the common start, and every variant from it, on the same pages in the same order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from numpy.random import default_rng
from torch import Tensor, nn

from recipes.ablation.model import add
from recipes.ablation.mutual import Reader
from recipes.ablation.pages import Kind, make_batch, with_fewer
from recipes.ablation.variants import Variant
from recipes.builtin.config import TrainConfig
from recipes.builtin.data import Batch
from recipes.builtin.losses import Losses, answer_losses, cell_loss, see
from recipes.builtin.model import Nano
from recipes.builtin.muon import Muon

ORDER: tuple[Kind, ...] = ("cards", "list", "cards", "easy")
"""Kinds of pages of the start, step by step."""
DENSER: tuple[Kind, ...] = ("full", "list", "full", "easy")
"""The same of all that follows."""
TAUGHT = TrainConfig(looking=0.3, counting=0.0, looking_layers=(2, 3), looking_heads=(2, 3))
"""Losses of the start while two heads of two layers are taught to look at the next character."""
PLAIN = replace(TAUGHT, looking=0.0, looking_layers=(), looking_heads=())
"""Losses of all that follows: nothing tells a head where to look."""
CHUNK = 100
"""Steps between two copies of a training's state."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast a training goes.

    Attributes:
        steps: in all; the rate rises over the first twentieth and falls to zero from `steady` on.
        pages: of a step.
        muon, adamw: peak rates for hidden matrices, and for the rest of what the start has.
        added: peak rate for what a variant adds.
        supervision: weight of the characters of visual tokens.
        taught: share of the steps, from the first on, in which heads are taught where to look.
        steady: share of the steps after which the rate falls.
        seed: of pages and of what a variant draws.
    """

    steps: int
    pages: int = 8
    muon: float = 2e-3
    adamw: float = 1e-3
    added: float = 3e-3
    supervision: float = 0.5
    taught: float = 0.0
    steady: float = 0.3
    seed: int = 0


def optimizers(model: Nano, added: Sequence[nn.Parameter], plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices and AdamW for the rest of the start; AdamW at its own rate for what was added."""
    new = {id(p) for p in added}
    own = [(n, p) for n, p in model.named_parameters() if p.requires_grad and id(p) not in new]
    hidden = [p for n, p in own if p.dim() == 2 and any(part in n for part in ("blocks", "layers", "merger"))]
    rest = [p for _, p in own if not any(p is h for h in hidden)]
    groups = [{"params": rest, "lr": plan.adamw}, {"params": list(added), "lr": plan.added}]
    out: list[torch.optim.Optimizer] = [Muon(hidden, plan.muon, 0.0)] if hidden else []
    out.append(torch.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.98), weight_decay=0.0))
    for optimizer in out:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return out


def rate_at(step: int, plan: Plan) -> float:
    """Learning rate of a step as a share of its peak: a rise, a plateau, a linear fall to zero."""
    share = step / plan.steps
    return min(1.0, (share + 1 / plan.steps) * 20, (1 - share) / (1 - plan.steady))


def loss_of(model: Nano, batch: Batch, plan: Plan, config: TrainConfig, frozen_tower: bool) -> Tensor:
    """Loss of a batch: answers, what `config` adds, and the characters of visual tokens where the tower learns."""
    with torch.set_grad_enabled(not frozen_tower):
        tokens = see(model, torch.from_numpy(batch.image))
    losses: Losses = answer_losses(model, tokens, batch, config)
    total = losses.total(0.0, config)
    return total if frozen_tower else total + plan.supervision * cell_loss(model, tokens, torch.from_numpy(batch.cells))


def train(
    model: Reader,
    variant: Variant,
    plan: Plan,
    kinds: Sequence[Kind] = ORDER,
    report: Callable[[int, float], None] | None = None,
    state: Path | None = None,
) -> float:
    """Train a reader in place; the processor seconds that it took.

    Args:
        model: the start; what the variant adds is put into it first, drawn with the plan's seed.
        variant: what is added, and whether the rest is frozen.
        plan: steps, rates, seed of the pages.
        kinds: of pages, in turn.
        report: called with every step and its loss.
        state: file of weights, optimizers and step, written every `CHUNK` steps; where it is there, training goes on
            from it.
    """
    torch.manual_seed(plan.seed)
    added = add(model, variant)
    moving = [p for p in model.parameters() if p.requires_grad]
    tools = optimizers(model, added, plan)
    first, spent = (0, 0.0) if state is None else _resume(state, model, tools)
    begun = time.process_time() - spent
    for step in range(first, plan.steps):
        batch = make_batch(default_rng([plan.seed, step]), kinds[step % len(kinds)], plan.pages)
        batch = batch if variant.questions is None else with_fewer(batch, variant.questions)
        for optimizer in tools:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate_at(step, plan)
        config = TAUGHT if step < plan.taught * plan.steps else PLAIN
        loss = loss_of(model, batch, plan, config, variant.frozen)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(moving, 1.0)
        for optimizer in tools:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if report is not None:
            report(step, float(loss.detach()))
        if state is not None and step % CHUNK == CHUNK - 1:
            _store(state, model, tools, step + 1, time.process_time() - begun)
    return time.process_time() - begun


def _store(state: Path, model: Nano, tools: Sequence[torch.optim.Optimizer], step: int, seconds: float) -> None:
    """Write a state beside its place and rename it into it."""
    kept = {"model": model.state_dict(), "tools": [o.state_dict() for o in tools], "step": step, "seconds": seconds}
    fresh = state.with_suffix(".new")
    torch.save(kept, fresh)
    fresh.replace(state)


def _resume(state: Path, model: Nano, tools: Sequence[torch.optim.Optimizer]) -> tuple[int, float]:
    """Put a state into model and optimizers; the step it goes on with and the processor seconds spent."""
    if not state.is_file():
        return 0, 0.0
    kept = torch.load(state, weights_only=True)
    model.load_state_dict(kept["model"])
    for optimizer, own in zip(tools, kept["tools"], strict=True):
        optimizer.load_state_dict(own)
    return kept["step"], kept["seconds"]
