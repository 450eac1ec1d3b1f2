"""Runs in TensorBoard and Weights & Biases, where their packages are installed."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from rave_mlx.errors import UsageError
from rave_mlx.train.config import TrainConfig
from rave_mlx.train.report import Update, Validation


class TensorBoard:
    """Scalars as event files in OUT/tensorboard (package tensorboardX), from update `done` on.

    Raises:
        UsageError: when the package is missing.
    """

    def __init__(self, out: Path, done: int = 0):
        module = _package("tensorboardX", "--tensorboard")
        # What an earlier run wrote of later updates is to be forgotten: they come again.
        self._writer = module.SummaryWriter(
            str(out / "tensorboard"), purge_step=done + 1 if done else None, filename_suffix=f".{done:08d}"
        )

    def update(self, update: Update) -> None:
        for name, value in _scalars(update).items():
            self._writer.add_scalar(f"train/{name}", value, update.step)

    def validation(self, validation: Validation) -> None:
        for name, value in _scalars(validation).items():
            self._writer.add_scalar(f"valid/{name}", value, validation.step)

    def note(self, text: str) -> None:
        """Notes are for people."""

    def saved(self, path: Path) -> None:
        """Checkpoints are to be seen in their folder."""

    def close(self) -> None:
        self._writer.close()


class WandB:
    """The run at Weights & Biases (package wandb); offline where WANDB_MODE says so. A resumed run is a new one there.

    Raises:
        UsageError: when the package is missing, nobody is logged in, or the service cannot be reached.
    """

    def __init__(self, out: Path, config: TrainConfig):
        module = _package("wandb", "--wandb")
        out.mkdir(parents=True, exist_ok=True)  # elsewhere wandb would choose a place of its own
        try:
            self._run = module.init(project="rave-mlx", name=out.name, dir=str(out), config=config.to_dict())
        except module.Error as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UsageError(
                f"--wandb: {reason}; run `wandb login`, set WANDB_MODE=offline to upload later, or leave --wandb out"
            ) from None

    def update(self, update: Update) -> None:
        self._run.log({f"train/{name}": value for name, value in _scalars(update).items()}, step=update.step)

    def validation(self, validation: Validation) -> None:
        self._run.log({f"valid/{n}": value for n, value in _scalars(validation).items()}, step=validation.step)

    def note(self, text: str) -> None:
        """Notes are for people."""

    def saved(self, path: Path) -> None:
        """Checkpoints are to be seen in their folder."""

    def close(self) -> None:
        self._run.finish()


def _scalars(entry: Update | Validation) -> dict[str, float]:
    """The figures of an entry, learning rates spread out."""
    flat: dict[str, float] = {}
    for name, value in asdict(entry).items():
        if name == "rates":
            flat |= {f"rate_{group}": rate for group, rate in value.items()}
        elif name != "step" and value is not None:
            flat[name] = value
    return flat


def _package(name: str, flag: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise UsageError(f"{flag} needs the package {name}; pip install {name}, or leave {flag} out") from None
