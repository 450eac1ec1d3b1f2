"""Train the built-in reader: one command, resumable, bf16 on CPUs.

    python -m recipes.builtin.train --start DIR --out DIR --minutes 70

Starts from the built-in model, a rave directory or Hugging Face-layout weights (`--start`), to which it adds
zero-initialised pair gates where they have none, and trains everything under one
schedule that is a function of wall-clock time, so that it always ends at a learning rate of zero, on time. Page sizes
grow in two steps. Muon (Jordan et al. 2024) on hidden matrices, AdamW elsewhere; gates have a rate of their own.
Started from another run's directory it takes that state, its auxiliary heads included; a state of a shallower decoder
is deepened by layers that change nothing at first.

Three auxiliary losses use what the generator knows: every visual token names the characters it covers and the number of
its line, and some heads of the last layers look at the place on the page of the very character that comes next.
Run the same command again to go on after an interruption: `OUT/state.pt` holds model, optimizers and clock.

To go on from the built-in model with pages that are asked by meaning, two of three pages being such:

    python -m recipes.builtin.train --out RUN --minutes 240 --meaning 0.67 --muon 7e-4 --adamw 2.8e-4 --gates 1.6e-3
    python -m recipes.builtin.measure --run RUN
    python -m recipes.builtin.measure --run RUN --export RAVE_DIR

`--quote` lets answers about those pages quote the line they come from before the value, to see whether that helps.

A processor without bfloat16 instructions takes eight seconds for a step of three pages. There the decoder alone can be
taught other questions and layouts: `--decoder-only` sees each page once with the tower as it is, and asks it five
times. `--threads 1` leaves a core to other work. The first 76 minutes of that made the present weights; 95 more with
seven pages of ten by meaning made natural questions better (0.36 to 0.40 of 201) and all else worse (0.88 to 0.83 of 92
on `docs:all --pages 30`, 25 to 21 of 85 on real documents): the tower has to learn along, on more of the older pages.

On a GPU (not tried yet): `--device cuda --workers 15 --cells-per-step 24000`, with the fonts of
`rave_mlx.synthetic.fonts.DEBIAN_PACKAGES` on that machine.

Weights that can read already want lower rates: the last run took `--muon 7e-4 --adamw 2.8e-4 --gates 1.6e-3`. A tenth
of the time goes into the C library's allocator; preload another one (tcmalloc, jemalloc) where you can.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing as mp
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor

from rave_mlx.synthetic import PageConfig
from recipes.builtin import device, packed, weights
from recipes.builtin.config import TrainConfig
from recipes.builtin.data import CHARACTERS, LINES, SLOTS, Batch, Mixture, batches
from recipes.builtin.layers import NanoConfig
from recipes.builtin.losses import Losses, answer_losses, losses
from recipes.builtin.model import DecoderBlock, Nano
from recipes.builtin.muon import Muon
from recipes.builtin.replay import Replay
from recipes.builtin.vision import Merger, VisionBlock


def groups(model: Nano, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices; AdamW for embeddings, norms, biases, patch filter and head; gates apart."""
    muon, matrices, vectors, gates = [], [], [], []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if ".gate." in name:
            gates.append(p)
        elif p.dim() == 2 and any(part in name for part in ("blocks", "layers", "merger")):
            muon.append(p)
        elif p.dim() == 2 and "embed_tokens" not in name:
            matrices.append(p)
        else:
            vectors.append(p)
    out: list[torch.optim.Optimizer] = [
        Muon(muon, config.muon, config.weight_decay, dtype=torch.bfloat16 if device.is_fast() else torch.float32),
        torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay, "lr": config.adamw},
                {"params": vectors, "weight_decay": 0.0, "lr": config.adamw},
                {"params": gates, "weight_decay": 0.0, "lr": config.gates},
            ],
            betas=(0.9, 0.98),
            fused=True,
        ),
    ]
    for optimizer in out:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return out


def rate(minutes: float, config: TrainConfig) -> float:
    """Learning rate at a time, as a share of the peak: nothing, warm-up, plateau, linear decay to zero."""
    warm = min(1.0, max(0.0, minutes - config.head_minutes) / config.warmup_minutes)
    rest = (1 - minutes / config.minutes) / (1 - config.steady)
    return warm * min(1.0, max(0.0, rest))


def _produce(queue: Any, most: Any, seed: int, cells_per_step: int, mixture: Mixture) -> None:
    """Put batches into a queue without end; runs in a process of its own."""
    for batch in batches(seed, cells_per_step, lambda: int(most.value), PageConfig(), mixture):
        queue.put(batch)


class Feed:
    """Processes that draw batches ahead of the trainer."""

    def __init__(self, seed: int, config: TrainConfig) -> None:
        context = mp.get_context("fork")
        self.most = context.Value("i", config.growth[0][1])
        self.queue = context.Queue(8 * config.workers)
        mixture = Mixture(config.meaning, config.quote)
        self.processes = []
        for number in range(config.workers):
            arguments = (self.queue, self.most, seed + 1_000_003 * number, config.cells_per_step, mixture)
            self.processes.append(context.Process(target=_produce, args=arguments, daemon=True))
            self.processes[-1].start()

    def stop(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.terminate()

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.queue.get()


class Run:
    """Model, optimizers and clock of one training, on disk in `OUT/state.pt` between interruptions."""

    def __init__(self, config: TrainConfig, start: Path, out: Path) -> None:
        torch.manual_seed(config.seed)
        self.config, self.state = config, out / "state.pt"
        self.model = Nano(NanoConfig(), True, SLOTS, CHARACTERS, LINES)
        self.step = self.pages = 0
        self.spent, self.begun = 0.0, time.time()
        if (start / "state.pt").is_file():
            self.spent = config.head_minutes
        packed.load_any(self.model, start)
        if config.decoder_only:
            for part in (self.model.visual, self.model.cells, self.model.rows):
                part.requires_grad_(False)
        self.optimizers = groups(self.model, config)
        if self.state.is_file():
            self._resume()

    @property
    def minutes(self) -> float:
        """Wall-clock minutes so far, earlier runs included."""
        return self.spent + (time.time() - self.begun) / 60

    def _resume(self) -> None:
        saved = torch.load(self.state, weights_only=True, map_location=torch.get_default_device())
        self.model.load_state_dict(saved["model"])
        for optimizer, kept in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.step, self.pages, self.spent = saved["step"], saved["pages"], saved["minutes"]

    def store(self) -> None:
        """Write the state beside its place and rename it into it."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "pages": self.pages,
            "minutes": self.minutes,
        }
        fresh = self.state.with_suffix(".new")
        torch.save(state, fresh)
        fresh.replace(self.state)

    def learn(self, batch: Batch) -> dict[str, float]:
        """One step; its losses and the norm of its gradient."""
        config, minutes = self.config, self.minutes
        head_only = minutes < config.head_minutes
        self._set_rates(minutes)
        if head_only:
            # The first group of AdamW holds the auxiliary heads, all that learns now.
            self.optimizers[1].param_groups[0]["lr"] = config.adamw * 3
        loss = losses(self.model, batch, head_only, config)
        early, late = config.supervision
        share = early + (late - early) * min(1.0, minutes / config.minutes)
        loss.total(share, config).backward()
        norm = self._move(self.optimizers[1:] if head_only else self.optimizers)
        self.pages += len(batch.image)
        return _numbers(loss) | {"norm": norm}

    def learn_visits(self, visits: Sequence[tuple[Tensor, Batch]]) -> dict[str, float]:
        """One step of the decoder alone: visual tokens of pages, and questions about each; as `learn`."""
        self._set_rates(self.minutes)
        sums: dict[str, float] = {}
        with device.autocast():
            for tokens, batch in visits:
                loss = answer_losses(self.model, tokens, batch, self.config)
                (loss.total(0.0, self.config) / len(visits)).backward()
                for name, value in _numbers(loss).items():
                    sums[name] = sums.get(name, 0.0) + value / len(visits)
        norm = self._move(self.optimizers)
        self.pages += len(visits)
        return sums | {"norm": norm}

    def _set_rates(self, minutes: float) -> None:
        factor = rate(minutes, self.config)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor

    def _move(self, optimizers: Sequence[torch.optim.Optimizer]) -> float:
        """One step of the optimizers; the norm of the gradient before it was clipped."""
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        return float(norm)


def _numbers(loss: Losses) -> dict[str, float]:
    return {name: float(part.detach()) for name, part in vars(loss).items()}


def train(config: TrainConfig, start: Path, out: Path) -> None:
    """Train, or go on with a training; leaves `model.safetensors`, `gates.safetensors`, `log.jsonl` in `out`.

    Args:
        config: settings of the run.
        start: weights to start from, or the directory of another run.
        out: the run's directory; where it holds a state, the run goes on from there.
    """
    torch.set_num_threads(config.threads)
    out.mkdir(parents=True, exist_ok=True)
    run = Run(config, start, out)
    steps = _decoder_steps(run) if config.decoder_only else _steps(run)
    log = (out / "log.jsonl").open("a")
    log.write(json.dumps({"config": asdict(config), "parameters": weights.count(run.model)}) + "\n")
    logged = stored = time.time()
    recent: list[dict[str, float]] = []
    for step in steps:
        recent.append(step)
        now = time.time()
        if now - logged > 20:
            line = {"minutes": round(run.minutes, 2), "step": run.step, "pages": run.pages}
            line |= {name: round(sum(r[name] for r in recent) / len(recent), 4) for name in recent[0]}
            line["rate"] = round(rate(run.minutes, config), 3)
            log.write(json.dumps(line) + "\n")
            log.flush()
            recent, logged = [], now
        if now - stored > config.save_minutes * 60:
            run.store()
            stored = now
    run.store()
    weights.save(run.model, out)


def _steps(run: Run) -> Iterator[dict[str, float]]:
    """Train everything until the time is over; what each step measured."""
    config = run.config
    feed = Feed(config.seed * 1000 + run.step, config)  # a resumed run draws pages that it has not seen
    if device.is_cpu():
        _compile()
    for batch in feed:
        progress = run.minutes / config.minutes
        if progress >= 1:
            break
        feed.most.value = next(cells for share, cells in config.growth if progress <= share)
        yield run.learn(batch)
    feed.stop()


def _decoder_steps(run: Run) -> Iterator[dict[str, float]]:
    """Train the decoder until the time is over; what each step measured."""
    config = run.config
    pages = Replay(run.model, config.seed * 1000 + run.step, Mixture(config.meaning, config.quote))
    visits = iter(pages)
    while run.minutes < config.minutes:
        yield run.learn_visits(list(itertools.islice(visits, config.visits_per_step)))
    pages.process.terminate()


def _compile() -> None:
    """Fuse the elementwise work of the blocks: about 1.3 times faster, any page size."""
    # The gates' tanh is a fourteenth of the time in the library's exact form.
    inductor.cpp.use_decompose_tanh = True
    for part in (VisionBlock, DecoderBlock, Merger):
        part.forward = torch.compile(part.forward, dynamic=True)  # type: ignore[method-assign, assignment]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the built-in reader.")
    parser.add_argument(
        "--start", type=Path, default=packed.BUILT_IN, help="weights to start from; default: the built-in model's"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for state, log and weights")
    for name in ("minutes", "muon", "adamw", "gates", "meaning", "head_minutes"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(TrainConfig, name))
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: bfloat16 there, with more --workers")
    for name in ("threads", "seed", "workers", "cells_per_step", "visits_per_step"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(TrainConfig, name))
    parser.add_argument("--decoder-only", action="store_true", help="leave the tower as it is; for slow processors")
    parser.add_argument("--quote", action="store_true", help="answers quote the line that they come from")
    options = vars(parser.parse_args())
    start, out = options.pop("start"), options.pop("out")
    device.use(options.pop("device"))
    config = TrainConfig(**options)
    if config.decoder_only and not device.is_cpu():
        parser.error("--decoder-only is for processors without bfloat16; a GPU trains everything")
    if config.decoder_only:  # the head that counts lines is not part of saved weights
        config = replace(config, head_minutes=0.0, counting=0.0)
    train(config, start, out)


if __name__ == "__main__":
    main()
