"""`rave-mlx train`: fine-tune a model on one's own documents."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from rave_mlx.cli import options
from rave_mlx.cli import train_options as o

if TYPE_CHECKING:
    from rave_mlx.checkpoint.adapters import ModelPart
    from rave_mlx.models.lmm import LMM
    from rave_mlx.train.config import TrainConfig
    from rave_mlx.train.report import Listener
    from rave_mlx.train.run import Outcome

EXAMPLES = "examples.png"
_PARTS: tuple[ModelPart, ...] = ("decoder", "connector", "vision")
_ABOUT_NOW = ("out", "resume", "check_data")
"""Options of this call, and not of the run."""
_MAY_CHANGE = frozenset(
    ("steps", "epochs", "bad_rows", "feature_cache", "save_every", "eval_every", "keep", "log", "tensorboard", "wandb")
)
"""Options that --resume takes anew: how long the run is, and what is kept and shown of it."""


def train(
    ctx: typer.Context,
    data: o.Data = None,
    out: o.Out = None,
    model: options.Model = None,
    resume: o.Resume = False,
    check_data: o.CheckData = False,
    gate_only: o.GateOnly = False,
    lora_only: o.LoraOnly = False,
    sink_gates: o.SinkGates = None,
    sink_gates_only: o.SinkGatesOnly = False,
    sink_norm: o.SinkNorm = 2.0,
    rank: o.Rank = 8,
    scale: o.Scale = 2.0,
    dora: o.Dora = False,
    modules: o.Modules = "all",
    dropout: o.Dropout = 0.0,
    train: o.FullParts = None,
    mask: o.MaskName = None,
    steps: o.Steps = None,
    epochs: o.Epochs = 3,
    batch_size: o.BatchSize = 1,
    accumulate: o.Accumulate = 1,
    lr: o.LearningRate = None,
    gate_lr: o.GateLearningRate = None,
    optimizer: o.OptimizerName = "adamw",
    weight_decay: o.WeightDecay = 0.01,
    schedule: o.ScheduleName = "cosine",
    warmup: o.Warmup = 0.03,
    clip: o.Clip = 1.0,
    sink_loss: o.SinkLoss = 0.0,
    checkpointing: o.Checkpointing = False,
    dtype: o.Dtype = None,
    seed: o.Seed = 0,
    image_tokens: options.ImageTokens = None,
    max_tokens: o.MaxTokens = None,
    bad_rows: o.BadRows = 0,
    feature_cache: o.FeatureFolder = None,
    save_every: o.SaveEvery = None,
    eval_every: o.EvalEvery = None,
    keep: o.Keep = 3,
    log: o.LogFormat = "jsonl",
    tensorboard: o.TensorBoard = False,
    wandb: o.WandB = False,
) -> None:
    """Teach a model your own documents: pair gates and low-rank updates, or whole parts of it.

    [bold]rave-mlx train --data receipts --out receipts-adapter[/bold]

    then [bold]rave-mlx chat --adapter receipts-adapter --image new.png[/bold]. Ctrl-C saves;
    [bold]rave-mlx train --resume --out receipts-adapter[/bold] goes on. On several machines:
    mlx.launch --hosts 10.0.0.1,10.0.0.2 -- rave-mlx train ...
    """
    from rave_mlx.backend.distributed import join
    from rave_mlx.errors import UsageError

    if out is None and not check_data:
        raise UsageError("--out is missing: where should the adapter go?")
    place = (out or Path()).expanduser()
    world = join()
    with world.together():
        settings = _settings(ctx, place, resume=resume)
        if settings["data"] is None:
            raise UsageError("--data is missing: what should be trained on?")
        config = _config(settings)
        lmm = _load(settings["model"], config)
    if check_data:
        if not _checked(settings["data"], lmm, config, place):
            raise typer.Exit(1)
        return
    _train(lmm, place, config, settings, resume=resume, world=world)


def _train(
    lmm: LMM, place: Path, config: TrainConfig, settings: Mapping[str, Any], *, resume: bool, world: Any
) -> None:
    """Run, and print what came of it."""
    from rave_mlx.train.run import run

    folder = settings["feature_cache"]
    outcome = run(
        lmm,
        settings["data"],
        place,
        config,
        resume=resume,
        world=world,
        as_csv=settings["log"] == "csv",
        features_folder=None if folder is None else Path(folder),
        listeners=_listeners(place, config, settings) if world.is_writer else None,
        options=settings,
    )
    if world.is_writer:
        print(_summary(outcome), file=sys.stderr)
        print(place)


def _settings(ctx: typer.Context, out: Path, *, resume: bool) -> dict[str, Any]:
    """The run's options by name: those of the command line, and with --resume the run's own."""
    from rave_mlx.errors import ConfigError
    from rave_mlx.train.options import FILE, merge_options, read_options

    found = {name: _plain(name, value) for name, value in ctx.params.items() if name not in _ABOUT_NOW}
    recorded = read_options(out) if resume else None
    if recorded is None:
        return found
    unknown = sorted(set(recorded) - set(found))
    if unknown:
        raise ConfigError(f"{out / FILE}: {unknown[0]} is of another version of rave-mlx; resume with that version")
    given = {name: value for name, value in found.items() if _is_given(ctx, name)}
    if "epochs" in given and "steps" not in given:
        given["steps"] = None  # else the run's own --steps would win
    return {**found, **merge_options(recorded, given, _MAY_CHANGE, out)}


def _is_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option was on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _plain(name: str, value: Any) -> Any:
    """An option's value as JSON has it; local paths as they are from any folder."""
    if name in ("data", "model", "feature_cache") and value is not None:
        path = Path(value).expanduser()
        return str(path.resolve()) if name == "feature_cache" or path.exists() else str(value)
    return list(value) if isinstance(value, tuple) else value


def _config(settings: Mapping[str, Any]) -> TrainConfig:
    """The settings of a run from its options."""
    from rave_mlx.errors import UsageError
    from rave_mlx.train.config import AdapterSettings, TrainConfig

    s = settings
    if s["gate_only"] and s["lora_only"]:
        raise UsageError("--gate-only and --lora-only exclude each other; without either both train")
    parts, rates = _parts(s["train"] or [])
    only = s["sink_gates_only"]
    if only and (s["gate_only"] or s["lora_only"]):
        raise UsageError("--sink-gates-only excludes --gate-only and --lora-only")
    low_rank = not s["gate_only"] and not only and ("decoder" not in parts or s["lora_only"])
    kind: Literal["lora", "dora"] = "dora" if s["dora"] else "lora"
    modules = tuple(s["modules"].split(","))
    adapter = AdapterSettings(s["rank"], s["scale"], kind, s["dropout"], modules) if low_rank else None
    same = (
        *("mask", "steps", "epochs", "batch_size", "accumulate", "optimizer", "weight_decay", "clip", "schedule"),
        *("warmup", "sink_loss", "checkpointing", "dtype", "seed", "image_tokens", "max_tokens", "bad_rows"),
        *("save_every", "eval_every", "keep"),
    )
    return TrainConfig(
        gates=not s["lora_only"] and not only,
        adapter=adapter,
        sink_gates=_sink_gates(s["sink_gates"] or ("auto" if only else None)),
        outlier=s["sink_norm"],
        full=parts,
        learning_rate=s["lr"],
        rates=rates if s["gate_lr"] is None else {**rates, "gate": s["gate_lr"]},
        **{name: s[name] for name in same},
    )


def _sink_gates(text: str | None) -> Literal["auto"] | tuple[int, ...] | None:
    """Layers of sink gates, from "3,7,11" or "auto"."""
    from rave_mlx.errors import UsageError

    if text is None or text == "auto":
        return "auto" if text else None
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise UsageError(f"--sink-gates {text}: give auto, or layers like 3,7,11") from None


def _parts(given: list[str]) -> tuple[tuple[ModelPart, ...], dict[str, float]]:
    """Parts that train in full, and their learning rates, from PART or PART=LR."""
    from rave_mlx.errors import UsageError

    rates: dict[str, float] = {}
    names: list[ModelPart] = []
    for text in given:
        name, _, rate = text.partition("=")
        if name not in _PARTS:
            raise UsageError(f"--train {text}: {name!r} is not one of {', '.join(_PARTS)}")
        names.append(_PARTS[_PARTS.index(name)])
        if rate:
            try:
                rates[name] = float(rate)
            except ValueError:
                raise UsageError(f"--train {text}: {rate!r} is no learning rate") from None
    return tuple(sorted(set(names))), rates


def _load(model: str | None, config: TrainConfig) -> LMM:
    """The base model, in a type that gradients fit into."""
    import mlx.core as mx

    from rave_mlx.api import load

    lmm = load(model, dtype=config.dtype)
    if config.dtype is None and lmm.decoder.norm.weight.dtype == mx.float16:
        # Gradients leave float16's range.
        lmm = load(model, dtype="bfloat16")
    return lmm


def _checked(data: str, lmm: LMM, config: TrainConfig, place: Path) -> bool:
    """Report what is in the data, on stdout; whether there are no more bad rows than are allowed."""
    from rave_mlx.errors import ModelError
    from rave_mlx.train.check_data import check_data
    from rave_mlx.train.dataset import open_dataset
    from rave_mlx.train.draw import draw_examples
    from rave_mlx.train.mutual_mask import use_mutual_mask
    from rave_mlx.train.sources import has_split

    if config.mask == "mutual":
        use_mutual_mask(lmm)
    bad = 0
    for split in ("train", "valid"):
        if split == "valid" and not has_split(data, split):
            print("no held-out rows: nothing would be validated", file=sys.stderr)
            continue
        rows = open_dataset(
            data,
            lmm,
            split=split,
            image_tokens=config.image_tokens,
            max_tokens=config.max_tokens,
            bad_rows=sys.maxsize,
        )
        report = check_data(rows, workers=config.workers)
        print(report.text())
        bad += len(report.bad)
        if split == "train":
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ModelError(f"{place}: cannot be created ({error.strerror})") from None
            print(f"three examples as the model sees them: {draw_examples(lmm, rows, place / EXAMPLES)}")
    return bad <= config.bad_rows


def _listeners(out: Path, config: TrainConfig, settings: Mapping[str, Any]) -> Callable[[int, int], list[Listener]]:
    """Makes those who follow a run of so many updates, so many of which are done."""

    def make(steps: int, done: int) -> list[Listener]:
        from rave_mlx.train.progress import ProgressBar, ProgressLines
        from rave_mlx.train.services import TensorBoard, WandB

        found: list[Listener] = []
        if settings["tensorboard"]:
            found.append(TensorBoard(out, done))
        if settings["wandb"]:
            found.append(WandB(out, config))
        terminal = sys.stderr.isatty()
        return [*found, ProgressBar(steps, done) if terminal else ProgressLines(steps, config.report_every)]

    return make


def _summary(outcome: Outcome) -> str:
    """What came of the run, for people."""
    lines = [
        f"layer {g.layer}: gate bias {g.bias:+.3f}, attention on the image {g.visual_without:.1%} without the gate, "
        f"{g.visual:.1%} with it ({g.moved:.1%} moved)"
        for g in outcome.gates
    ]
    lines += [
        f"layer {g.layer}: sink gate: keys of visual sinks x {g.sink:.3f}, of other visual tokens x {g.rest:.3f} (+- "
        f"{g.spread:.3f}; {g.sinks:.1%} are sinks)"
        for g in outcome.sink_gates
    ]
    if outcome.best_loss is not None:
        lines.append(f"lowest validation loss {outcome.best_loss:.4f}, after step {outcome.best_step}")
    peak, estimate = outcome.peak_bytes / 1e9, outcome.estimated_bytes / 1e9
    lines.append(f"peak memory {peak:.2f} GB (estimated {estimate:.2f} GB)")
    return "\n".join(lines)
