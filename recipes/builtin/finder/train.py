"""Train the finder: one command, resumable, float32 on CPUs.

    python -m recipes.builtin.finder.train --start FOLDER --out RUN --minutes 70

`--start` is the folder of a published BERT encoder, of a finder, or of another run. The schedule is a function of
wall-clock time, so that it always ends on time. RUN becomes a finder's folder, in float32, with the mean of the weights
over the last steps, which `measure` and `export` read; `RUN/state.pt` holds what training goes on from when the same
command is given again after an interruption.

70 minutes on two cores are about 1800 steps of 27 questions. Parts that a published encoder does not have begin at
nothing and learn at ten times the rate of the others (`--peak` is that of the others).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlx.utils import tree_flatten
from safetensors.torch import save_file
from torch import Tensor, nn

from rave_mlx.errors import ModelError, UsageError
from rave_mlx.models.finder.config import SETTINGS, TOKENIZER, WEIGHTS, FinderConfig
from rave_mlx.models.finder.finder import load_finder
from rave_mlx.models.finder.word_pieces import WordPieces
from recipes.builtin.finder import vocabulary
from recipes.builtin.finder.examples import Batch, batches
from recipes.builtin.finder.network import NEW, TorchFinder, losses

STATE, LOG = "state.pt", "log.jsonl"


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run.

    Attributes:
        minutes: wall-clock length of the schedule.
        peak: highest learning rate of what a published encoder has.
        peak_new: of the other parts.
        weight_decay: of what a published encoder has.
        warmup_minutes: until rates are at their peak.
        last_rate: share of the peak at which the schedule ends.
        average: share of the mean weights that a step keeps; less in the first steps.
        tokens: of a step, about.
        seed: of pages and weights.
        threads: of the trainer; pages are made in a process beside it.
        save_minutes: between two saved states.
    """

    minutes: float = 70.0
    peak: float = 1.4e-4
    peak_new: float = 1.5e-3
    weight_decay: float = 0.01
    warmup_minutes: float = 2.5
    last_rate: float = 0.02
    average: float = 0.998
    tokens: int = 2400
    seed: int = 0
    threads: int = 2
    save_minutes: float = 4.0


def rate(minutes: float, config: TrainConfig) -> float:
    """Learning rate at a time, as a share of the peak: warm-up, then linear decay.

    Args:
        minutes: since the start.
        config: of the run.
    """
    warm = min(1.0, max(config.last_rate, minutes / config.warmup_minutes))
    return warm * max(config.last_rate, min(1.0, (1 - minutes / config.minutes) / 0.9))


class Run:
    """Network, mean weights, optimizer and clock of one training.

    Args:
        config: settings.
        start: weights to start from; not needed where `out` holds a state.
        out: folder of the run.

    Raises:
        UsageError: where there is nothing to start from.
        ModelError: where `start` does not hold what it should.
    """

    def __init__(self, config: TrainConfig, start: Path | None, out: Path) -> None:
        torch.manual_seed(config.seed)
        self.config, self.out = config, out
        self.step = self.examples = 0
        self.spent, self.begun = 0.0, time.time()
        saved = torch.load(out / STATE, weights_only=True) if (out / STATE).is_file() else None
        if saved is None:
            if start is None:
                raise UsageError(f"{out} holds no training to go on with; give --start")
            self.shape, self.network = _begin(start, out)
        else:
            self.shape = FinderConfig(**json.loads((out / SETTINGS).read_text(encoding="utf-8")))
            self.network = TorchFinder(self.shape)
            self.network.load_state_dict(saved["network"])
        self.mean = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        self.optimizer = _optimizer(self.network, config)
        if saved is not None:
            self.mean = saved["mean"]
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.examples, self.spent = saved["step"], saved["examples"], saved["minutes"]
        self.network.train()

    @property
    def minutes(self) -> float:
        """Wall-clock minutes so far, earlier sessions included."""
        return self.spent + (time.time() - self.begun) / 60

    def learn(self, batch: Batch) -> dict[str, float]:
        """One step; its losses, and the share of spans that were found before it."""
        factor = rate(self.minutes, self.config)
        for group, peak in zip(self.optimizer.param_groups, (self.config.peak, self.config.peak_new), strict=True):
            group["lr"] = peak * factor
        loss = losses(self.network, batch)
        self.optimizer.zero_grad()
        loss.total.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.examples += len(batch.kind)
        kept = min(self.config.average, self.step / (self.step + 20))
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                self.mean[name].lerp_(parameter, 1 - kept)
        right = loss.right / max(1, loss.spans)
        return {
            "span": float(loss.span.detach()),
            "kind": float(loss.kind.detach()),
            "right": right,
            "norm": float(norm),
        }

    def store(self) -> None:
        """Write weights and state, each beside its place, and rename them into it."""
        fresh = self.out / f"{WEIGHTS}.new"
        save_file({name: tensor.contiguous() for name, tensor in self.mean.items()}, fresh)
        fresh.replace(self.out / WEIGHTS)
        state = {
            "network": self.network.state_dict(),
            "mean": self.mean,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "examples": self.examples,
            "minutes": self.minutes,
        }
        fresh = self.out / f"{STATE}.new"
        torch.save(state, fresh)
        fresh.replace(self.out / STATE)


def _begin(start: Path, out: Path) -> tuple[FinderConfig, TorchFinder]:
    """A network with the weights of `start`; its configuration and tokenizer are put into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    if (start / vocabulary.FILE).is_file():
        pieces = vocabulary.read_pieces(start)
        kept = vocabulary.choose_pieces(pieces, vocabulary.generator_words())
        shape = _shape(start / SETTINGS, len(kept))
        network = TorchFinder(shape)
        network.load_encoder(start, kept)
        vocabulary.make_tokenizer([pieces[number] for number in kept]).save(str(out / TOKENIZER))
    elif (start / TOKENIZER).is_file():
        finder = load_finder(start)
        shape, network = finder.config, TorchFinder(finder.config)
        weights = dict(tree_flatten(finder.network.parameters()))
        network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
        (out / TOKENIZER).write_bytes((start / TOKENIZER).read_bytes())
    else:
        raise ModelError(f"{start}: holds neither a published encoder ({vocabulary.FILE}) nor a finder ({TOKENIZER})")
    (out / SETTINGS).write_text(json.dumps(asdict(shape), indent=2) + "\n", encoding="utf-8")
    return shape, network


def _shape(file: Path, pieces: int) -> FinderConfig:
    """The shape of a finder with the layers of a published encoder."""
    try:
        data: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return FinderConfig(
            vocab_size=pieces,
            hidden_size=data["hidden_size"],
            intermediate_size=data["intermediate_size"],
            num_layers=data["num_hidden_layers"],
            num_heads=data["num_attention_heads"],
            max_positions=data["max_position_embeddings"],
            norm_eps=data["layer_norm_eps"],
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{file}: is not the configuration of a BERT encoder ({error!r})") from None


def _optimizer(network: TorchFinder, config: TrainConfig) -> torch.optim.AdamW:
    groups: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, parameter in network.named_parameters():
        groups[name.split(".")[0] in NEW].append(parameter)
    old, new = groups
    return torch.optim.AdamW(
        [{"params": old, "weight_decay": config.weight_decay}, {"params": new, "weight_decay": 0.0}],
        lr=config.peak,
        betas=(0.9, 0.98),
    )


def _produce(queue: Any, seed: int, tokenizer: Path, tokens: int) -> None:
    """Put batches into a queue without end; runs in a process of its own."""
    for batch in batches(seed, WordPieces(tokenizer), tokens):
        queue.put(batch)


def train(config: TrainConfig, start: Path | None, out: Path) -> None:
    """Train, or go on with a training.

    Args:
        config: settings of the run.
        start: weights to start from.
        out: folder of the run; where it holds a state, the run goes on from there.
    """
    torch.set_num_threads(config.threads)
    run = Run(config, start, out)
    with (out / LOG).open("a") as log:
        log.write(json.dumps({"config": asdict(config), "start": str(start), "step": run.step}) + "\n")
        logged = stored = time.time()
        recent: list[dict[str, float]] = []
        for step in _steps(run):
            recent.append(step)
            now = time.time()
            if now - logged > 30:
                line = {"minutes": round(run.minutes, 2), "step": run.step, "examples": run.examples}
                line |= {name: round(sum(r[name] for r in recent) / len(recent), 4) for name in recent[0]}
                log.write(json.dumps(line) + "\n")
                log.flush()
                recent, logged = [], now
            if now - stored > config.save_minutes * 60:
                run.store()
                stored = now
    run.store()


def _steps(run: Run) -> Iterator[dict[str, float]]:
    """Train until the time is over; what each step measured."""
    context = mp.get_context("fork")
    queue = context.Queue(24)
    # A resumed run makes pages that it has not seen.
    arguments = (queue, run.config.seed * 1_000_003 + run.step, run.out / TOKENIZER, run.config.tokens)
    process = context.Process(target=_produce, args=arguments, daemon=True)
    process.start()
    try:
        while run.minutes < run.config.minutes:
            yield run.learn(queue.get())
    finally:
        process.terminate()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the finder.")
    parser.add_argument("--start", type=Path, help="folder of a published encoder, of a finder, or of another run")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, state and log")
    for name in ("minutes", "peak", "peak_new"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(TrainConfig, name))
    for name in ("threads", "tokens", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(TrainConfig, name))
    options = vars(parser.parse_args())
    start, out = options.pop("start"), options.pop("out")
    train(TrainConfig(**options), start, out)


if __name__ == "__main__":
    main()
