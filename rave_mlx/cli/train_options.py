"""The options of `rave-mlx train`, grouped as its help shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

_WHAT, _HOW, _DATA, _SHOW = "What trains", "How", "Data", "What is kept and shown"


def _option(panel: str, name: str, **settings: Any) -> Any:
    """An option in one of the groups of the help."""
    return typer.Option(name, rich_help_panel=panel, **settings)


Data = Annotated[
    str | None,
    typer.Option("--data", metavar="DIR", help="Folder with train.jsonl and valid.jsonl, a single file, or a Hub id."),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Where the adapter and everything about the run goes.")
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on from the newest checkpoint in --out, to the bit. No other option is needed; --steps, --epochs and "
        "what is kept and shown may be changed.",
    ),
]
CheckData = Annotated[
    bool,
    typer.Option(
        "--check-data",
        help="Read all of the data, say what is in it, draw three examples as the model sees them; train nothing.",
    ),
]

GateOnly = Annotated[bool, _option(_WHAT, "--gate-only", help="Train the pair gates only.")]
LoraOnly = Annotated[bool, _option(_WHAT, "--lora-only", help="Train low-rank updates (LoRA) only.")]
SinkGates = Annotated[
    str | None,
    _option(
        _WHAT,
        "--sink-gates",
        metavar="auto|LAYERS",
        help="Train sink gates too (LSG, arXiv 2604.03316): before these layers, as 3,7,11, the prompt's last token "
        "decides how much the keys of visual sinks and of all other visual tokens count. auto: one layer, a third of "
        "the way up.",
    ),
]
SinkGatesOnly = Annotated[
    bool, _option(_WHAT, "--sink-gates-only", help="Train the sink gates only, as the paper does.")
]
SinkNorm = Annotated[
    float,
    _option(
        _WHAT,
        "--sink-norm",
        help="Norm, in medians of its image, from which on a visual token is a visual sink for --sink-gates.",
    ),
]
Rank = Annotated[int, _option(_WHAT, "--rank", min=1, help="Rank of the low-rank updates.")]
Scale = Annotated[float, _option(_WHAT, "--scale", help="What updates are multiplied with: alpha divided by rank.")]
Dora = Annotated[bool, _option(_WHAT, "--dora", help="DoRA instead of LoRA.")]
Modules = Annotated[
    str, _option(_WHAT, "--modules", help="Projections that get updates, as q_proj,v_proj,mlp.up_proj; or all.")
]
Dropout = Annotated[
    float, _option(_WHAT, "--dropout", min=0.0, help="Share of the inputs of updates that is left out at random.")
]
FullParts = Annotated[
    list[str] | None,
    _option(
        _WHAT,
        "--train",
        metavar="PART[=LR]",
        help="Train a part in full: decoder, connector or vision; repeat for several.",
    ),
]

MaskName = Annotated[
    Literal["mutual"] | None,
    _option(
        _HOW,
        "--mask",
        help="mutual: images also see the question of their turn (AKI's MMA, arXiv 2503.02597); the adapter "
        "remembers it. Default: the model's own mask.",
    ),
]
Steps = Annotated[
    int | None,
    _option(_HOW, "--steps", min=1, help="How many updates of the weights. Default: as many as --epochs takes."),
]
Epochs = Annotated[int, _option(_HOW, "--epochs", min=1, help="Passes over the data.")]
BatchSize = Annotated[
    int, _option(_HOW, "--batch-size", min=1, help="Conversations computed together, over all machines.")
]
Accumulate = Annotated[int, _option(_HOW, "--accumulate", min=1, help="Batches that make an update.")]
LearningRate = Annotated[
    float | None, _option(_HOW, "--lr", help="Learning rate. Default: 2e-4 (lion 3e-5, muon 2e-3).")
]
GateLearningRate = Annotated[
    float | None, _option(_HOW, "--gate-lr", help="Learning rate of gates and sink gates. Default: 5 times --lr.")
]
OptimizerName = Annotated[
    Literal["adamw", "adafactor", "muon", "lion"],
    _option(_HOW, "--optimizer", help="What turns gradients into updates."),
]
WeightDecay = Annotated[
    float, _option(_HOW, "--weight-decay", help="How fast weights shrink towards zero; matrices only.")
]
ScheduleName = Annotated[
    Literal["cosine", "linear", "constant"],
    _option(_HOW, "--schedule", help="How the learning rate falls after the warm-up."),
]
Warmup = Annotated[
    float, _option(_HOW, "--warmup", help="Updates until the full learning rate; below 1: a share of all.")
]
Clip = Annotated[
    float, _option(_HOW, "--clip", help="Largest norm of the gradient, which is scaled down to it; 0: no limit.")
]
SinkLoss = Annotated[
    float,
    _option(
        _HOW,
        "--sink-loss",
        metavar="WEIGHT",
        help="Keep later tokens from pointing where the first does, which makes them attention sinks "
        "(arXiv 2510.22603, whose code uses 10000). 0: off.",
    ),
]
Checkpointing = Annotated[
    bool,
    _option(
        _HOW,
        "--checkpointing",
        help="Compute activations again instead of keeping them: a third more time, far less memory.",
    ),
]
Dtype = Annotated[
    Literal["float32", "bfloat16"] | None,
    _option(_HOW, "--dtype", help="Compute type. Default: float32 on a CPU, else the model's."),
]
Seed = Annotated[int, _option(_HOW, "--seed", min=0, help="Same seed, same result.")]

MaxTokens = Annotated[
    int | None,
    _option(_DATA, "--max-tokens", min=1, help="Longest row that is allowed, in tokens. Default: the model's context."),
]
BadRows = Annotated[
    int,
    _option(
        _DATA, "--bad-rows", min=0, help="How many rows that cannot be used may be left out; with more, nothing trains."
    ),
]
FeatureFolder = Annotated[
    Path | None,
    _option(
        _DATA,
        "--feature-cache",
        metavar="DIR",
        help="Keep features of images on the disk as well, for later epochs and runs.",
    ),
]

SaveEvery = Annotated[
    int | None, _option(_SHOW, "--save-every", min=1, help="Updates between checkpoints. Default: an epoch.")
]
EvalEvery = Annotated[
    int | None, _option(_SHOW, "--eval-every", min=1, help="Updates between validations. Default: as --save-every.")
]
Keep = Annotated[
    int, _option(_SHOW, "--keep", min=1, help="How many of the newest checkpoints stay, besides the best one.")
]
LogFormat = Annotated[Literal["jsonl", "csv"], _option(_SHOW, "--log", help="csv: write log.csv beside log.jsonl.")]
TensorBoard = Annotated[bool, _option(_SHOW, "--tensorboard", help="Write figures for TensorBoard, too.")]
WandB = Annotated[bool, _option(_SHOW, "--wandb", help="Send figures to Weights & Biases, too.")]
