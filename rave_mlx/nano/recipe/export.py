"""Write a training state as a Hugging Face directory: weights, gates beside them, and the files they belong with.

    python -m rave_mlx.nano.recipe.export --run DIR --like DIR --out DIR

`--like` is a directory with the configuration, tokenizer and chat template of the same shape; they are copied.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from rave_mlx.errors import ModelError
from rave_mlx.nano.recipe import weights
from rave_mlx.nano.recipe.data import CHARACTERS, SLOTS
from rave_mlx.nano.recipe.layers import NanoConfig
from rave_mlx.nano.recipe.model import Nano

BESIDE = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def export(run: Path, like: Path, out: Path) -> None:
    """Write the model in `run/state.pt` to `out`.

    Raises:
        ModelError: when the state or a file beside the weights is missing.
    """
    missing = [name for name in BESIDE if not (like / name).is_file()]
    if missing:
        raise ModelError(f"{like}: no {', '.join(missing)}")
    state = run / "state.pt"
    if not state.is_file():
        raise ModelError(f"{run}: no state.pt; train first")
    model = Nano(NanoConfig(), True, SLOTS, CHARACTERS)
    model.load_state_dict(torch.load(state, weights_only=True)["model"])
    weights.save(model, out)
    for name in BESIDE:
        shutil.copyfile(like / name, out / name)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Export a training state.")
    for name in ("run", "like", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    export(options.run, options.like, options.out)


if __name__ == "__main__":
    main()
