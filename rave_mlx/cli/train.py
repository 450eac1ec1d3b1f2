"""`rave-mlx train`: fine-tune a model on one's own documents."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rave_mlx.cli import options

if TYPE_CHECKING:
    from rave_mlx.checkpoint.adapters import ModelPart
    from rave_mlx.models.lmm import LMM
    from rave_mlx.train.config import TrainConfig
    from rave_mlx.train.report import Listener
    from rave_mlx.train.run import Outcome

EXAMPLES = "examples.png"
_PARTS: tuple[ModelPart, ...] = ("decoder", "connector", "vision")
_WHAT, _HOW, _DATA, _SHOW = "What trains", "How", "Data", "What is kept and shown"


def train(
    data: Annotated[
        str,
        typer.Option(
            "--data", metavar="DIR", help="Folder with train.jsonl and valid.jsonl, a single file, or a Hub id."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the adapter and everything about the run goes.")
    ] = None,
    model: options.Model = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out, to the bit.")
    ] = False,
    check_data: Annotated[
        bool,
        typer.Option(
            "--check-data",
            help="Read all of the data, say what is in it, draw three examples as the model sees them; train nothing.",
        ),
    ] = False,
    gate_only: Annotated[
        bool, typer.Option("--gate-only", help="Train the pair gates only.", rich_help_panel=_WHAT)
    ] = False,
    lora_only: Annotated[
        bool, typer.Option("--lora-only", help="Train low-rank updates only.", rich_help_panel=_WHAT)
    ] = False,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Rank of the updates.", rich_help_panel=_WHAT)] = 8,
    scale: Annotated[
        float, typer.Option("--scale", help="What updates are multiplied with.", rich_help_panel=_WHAT)
    ] = 2.0,
    dora: Annotated[bool, typer.Option("--dora", help="DoRA instead of LoRA.", rich_help_panel=_WHAT)] = False,
    modules: Annotated[
        str,
        typer.Option(
            "--modules", help="Projections to update (q_proj,v_proj,mlp.up_proj), or all.", rich_help_panel=_WHAT
        ),
    ] = "all",
    dropout: Annotated[
        float, typer.Option("--dropout", min=0.0, help="Dropout in front of updates.", rich_help_panel=_WHAT)
    ] = 0.0,
    whole: Annotated[
        list[str] | None,
        typer.Option(
            "--train",
            metavar="PART[=LR]",
            help="Train a part whole: decoder, connector or vision; repeat for several.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    mask: Annotated[
        Literal["mutual"] | None,
        typer.Option(
            "--mask",
            help="mutual: images also see the question of their turn (AKI's MMA, arXiv 2503.02597); the adapter "
            "remembers it. Default: the model's own mask.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Updates. Without it: --epochs.", rich_help_panel=_HOW)
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the data.", rich_help_panel=_HOW)] = 3,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", min=1, help="Conversations computed together, over all machines.", rich_help_panel=_HOW
        ),
    ] = 1,
    accumulate: Annotated[
        int, typer.Option("--accumulate", min=1, help="Batches that make an update.", rich_help_panel=_HOW)
    ] = 1,
    lr: Annotated[
        float | None,
        typer.Option("--lr", help="Learning rate. Default: 2e-4 (lion 3e-5, muon 2e-3).", rich_help_panel=_HOW),
    ] = None,
    gate_lr: Annotated[
        float | None, typer.Option("--gate-lr", help="Of the gates. Default: 5 times --lr.", rich_help_panel=_HOW)
    ] = None,
    optimizer: Annotated[
        Literal["adamw", "adafactor", "muon", "lion"], typer.Option("--optimizer", rich_help_panel=_HOW)
    ] = "adamw",
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", help="Of matrices only.", rich_help_panel=_HOW)
    ] = 0.01,
    schedule: Annotated[
        Literal["cosine", "linear", "constant"], typer.Option("--schedule", rich_help_panel=_HOW)
    ] = "cosine",
    warmup: Annotated[
        float,
        typer.Option("--warmup", help="Updates until the full rate; below 1: a share of all.", rich_help_panel=_HOW),
    ] = 0.03,
    clip: Annotated[
        float, typer.Option("--clip", help="Largest norm of the gradient; 0: no limit.", rich_help_panel=_HOW)
    ] = 1.0,
    sink_loss: Annotated[
        float,
        typer.Option(
            "--sink-loss",
            metavar="WEIGHT",
            help="Keep later tokens from pointing where the first does, which makes them attention sinks "
            "(arXiv 2510.22603, whose code uses 10000). 0: off.",
            rich_help_panel=_HOW,
        ),
    ] = 0.0,
    checkpointing: Annotated[
        bool,
        typer.Option("--checkpointing", help="A third more time, far less memory.", rich_help_panel=_HOW),
    ] = False,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        typer.Option(
            "--dtype", help="Compute type. Default: float32 on a CPU, else the model's.", rich_help_panel=_HOW
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same result.", rich_help_panel=_HOW)] = 0,
    image_tokens: options.ImageTokens = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Longest row that is allowed.", rich_help_panel=_DATA)
    ] = None,
    bad_rows: Annotated[
        int, typer.Option("--bad-rows", min=0, help="Rows that may be left out.", rich_help_panel=_DATA)
    ] = 0,
    feature_cache: Annotated[
        Path | None,
        typer.Option(
            "--feature-cache",
            metavar="DIR",
            help="Keep features of images on the disk as well, for later epochs and runs.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    save_every: Annotated[
        int | None,
        typer.Option(
            "--save-every", min=1, help="Updates between checkpoints. Default: an epoch.", rich_help_panel=_SHOW
        ),
    ] = None,
    eval_every: Annotated[
        int | None,
        typer.Option(
            "--eval-every", min=1, help="Updates between validations. Default: as --save-every.", rich_help_panel=_SHOW
        ),
    ] = None,
    keep: Annotated[
        int, typer.Option("--keep", min=1, help="Checkpoints kept besides the best.", rich_help_panel=_SHOW)
    ] = 3,
    log: Annotated[
        Literal["jsonl", "csv"],
        typer.Option("--log", help="csv: log.csv beside log.jsonl.", rich_help_panel=_SHOW),
    ] = "jsonl",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also for TensorBoard.", rich_help_panel=_SHOW)
    ] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Also to Weights & Biases.", rich_help_panel=_SHOW)] = False,
) -> None:
    """Teach a model your own documents: pair gates and low-rank updates, or whole parts of it.

    [bold]rave-mlx train --data receipts --out receipts-adapter[/bold]

    then [bold]rave-mlx chat --adapter receipts-adapter --image new.png[/bold]. Ctrl-C saves; --resume goes on. On
    several machines: mlx.launch --hosts 10.0.0.1,10.0.0.2 -- rave-mlx train ...
    """
    import mlx.core as mx

    from rave_mlx.api import load
    from rave_mlx.errors import UsageError
    from rave_mlx.train.config import AdapterSettings, TrainConfig
    from rave_mlx.train.distributed import join
    from rave_mlx.train.run import run

    if gate_only and lora_only:
        raise UsageError("--gate-only and --lora-only exclude each other; without either both train")
    if out is None and not check_data:
        raise UsageError("--out is missing: where should the adapter go?")
    place = (out or Path()).expanduser()
    parts, rates = _parts(whole or [])
    low_rank = not gate_only and ("decoder" not in parts or lora_only)
    settings = AdapterSettings(rank, scale, "dora" if dora else "lora", dropout, tuple(modules.split(",")))
    config = TrainConfig(
        gates=not lora_only,
        adapter=settings if low_rank else None,
        full=parts,
        learning_rate=lr,
        rates=rates if gate_lr is None else {**rates, "gate": gate_lr},
        mask=mask,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        optimizer=optimizer,
        weight_decay=weight_decay,
        clip=clip,
        schedule=schedule,
        warmup=warmup,
        sink_loss=sink_loss,
        checkpointing=checkpointing,
        dtype=dtype,
        seed=seed,
        image_tokens=image_tokens,
        max_tokens=max_tokens,
        bad_rows=bad_rows,
        save_every=save_every,
        eval_every=eval_every,
        keep=keep,
    )
    world = join()
    lmm = load(model, dtype=dtype)
    if dtype is None and lmm.decoder.norm.weight.dtype == mx.float16:
        # Gradients leave float16's range.
        lmm = load(model, dtype="bfloat16")

    if check_data:
        if not _checked(data, lmm, config, place):
            raise typer.Exit(1)
        return

    def listeners(steps: int, done: int) -> list[Listener]:
        if not world.is_writer:
            return []
        return _listeners(place, config, steps, done, tensorboard=tensorboard, wandb=wandb)

    outcome = run(
        lmm,
        data,
        place,
        config,
        resume=resume,
        world=world,
        as_csv=log == "csv",
        features_folder=None if feature_cache is None else feature_cache.expanduser(),
        listeners=listeners,
    )
    if world.is_writer:
        print(_summary(outcome), file=sys.stderr)
        print(place)


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


def _parts(given: list[str]) -> tuple[tuple[ModelPart, ...], dict[str, float]]:
    """Parts that train whole, and their learning rates, from PART or PART=LR."""
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


def _listeners(
    out: Path, config: TrainConfig, steps: int, done: int, *, tensorboard: bool, wandb: bool
) -> list[Listener]:
    from rave_mlx.train.progress import ProgressBar, ProgressLines
    from rave_mlx.train.services import TensorBoard, WandB

    found: list[Listener] = []
    if tensorboard:
        found.append(TensorBoard(out, done))
    if wandb:
        found.append(WandB(out, config))
    terminal = sys.stderr.isatty()
    return [*found, ProgressBar(steps, done) if terminal else ProgressLines(steps, config.report_every)]


def _summary(outcome: Outcome) -> str:
    """What came of the run, for people."""
    lines = [
        f"layer {g.layer}: gate bias {g.bias:+.3f}, attention on the image {g.visual_without:.1%} without the gate, "
        f"{g.visual:.1%} with it ({g.moved:.1%} moved)"
        for g in outcome.gates
    ]
    if outcome.best_loss is not None:
        lines.append(f"lowest validation loss {outcome.best_loss:.4f}, after step {outcome.best_step}")
    peak, estimate = outcome.peak_bytes / 1e9, outcome.estimated_bytes / 1e9
    lines.append(f"peak memory {peak:.2f} GB (estimated {estimate:.2f} GB)")
    return "\n".join(lines)
