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
    """Scalars as event files in OUT/tensorboard (package tensorboardX).

    Raises:
        UsageError: when the package is missing.
    """

    def __init__(self, out: Path):
        module = _package("tensorboardX", "--tensorboard")
        self._writer = module.SummaryWriter(str(out / "tensorboard"))

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
    """The run at Weights & Biases (package wandb).

    Raises:
        UsageError: when the package is missing.
    """

    def __init__(self, out: Path, config: TrainConfig):
        module = _package("wandb", "--wandb")
        self._run = module.init(project="rave-mlx", name=out.name, dir=str(out), config=config.to_dict())

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
