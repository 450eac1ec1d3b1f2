"""Write a training state as a rave directory, the form in which the package carries it.

    python -m recipes.builtin.export --run DIR [DIR ...] --like DIR --out DIR

`--like` is a Hugging Face directory of the same shape: its configuration, tokenizer and chat template are used. Of
several runs the mean of their weights is written.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rave_mlx.checkpoint import directory
from rave_mlx.config import GateConfig
from rave_mlx.convert import convert
from rave_mlx.convert.families.base import GATE_KEY
from rave_mlx.errors import ModelError
from recipes.builtin import weights
from recipes.builtin.data import CHARACTERS, LINES, SLOTS
from recipes.builtin.layers import NanoConfig
from recipes.builtin.model import Nano

BESIDE = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
GATE = GateConfig(kv_groups=1.0)
"""All KV groups are gated, as in `model.Nano`."""


def export(runs: list[Path], like: Path, out: Path) -> None:
    """Write the mean of the models in `RUN/state.pt` to `out`, in float16.

    Args:
        runs: directories of trainings; the mean of their weights is written.
        like: a directory in the Hub's layout, for configuration, tokenizer and chat template.
        out: the rave directory to create.

    Raises:
        ModelError: when a state or a file beside the weights is missing, or `out` exists.
    """
    missing = [name for name in BESIDE if not (like / name).is_file()]
    if missing:
        raise ModelError(f"{like}: no {', '.join(missing)}")
    model = Nano(NanoConfig(), True, SLOTS, CHARACTERS, LINES)
    model.load_state_dict(_mean([_state(run) for run in runs]))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / out.name
        weights.save(model, checkpoint)
        for name in BESIDE:
            shutil.copyfile(like / name, checkpoint / name)
        _put_gates(checkpoint)
        convert(checkpoint, out, dtype="float16")
    # It is trained on single questions, about pages that it sees in full.
    config = replace(directory.read_config(out), turns="last", attention="rave+views+words")
    (out / directory.CONFIG).write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")


def _state(run: Path) -> dict[str, torch.Tensor]:
    """The weights of a training, auxiliary heads included."""
    path = run / "state.pt"
    if not path.is_file():
        raise ModelError(f"{run}: no state.pt; train first")
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
    return state


def _mean(states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of every tensor over the trainings."""
    return {name: sum((s[name] for s in states[1:]), states[0][name]) / len(states) for name in states[0]}


def _put_gates(checkpoint: Path) -> None:
    """Gates into the checkpoint, under the names that the converter knows."""
    file, gates = checkpoint / "model.safetensors", checkpoint / "gates.safetensors"
    tensors = load_file(file)
    for name, tensor in load_file(gates).items():
        _, index, _, leaf = name.split(".")
        tensors[f"model.layers.{index}.self_attn.{GATE_KEY}.{leaf}"] = tensor
    gates.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    config = json.loads((checkpoint / "config.json").read_text())
    config[GATE_KEY] = GATE.to_dict()
    (checkpoint / "config.json").write_text(json.dumps(config, indent=2))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write a training state as a rave directory.")
    parser.add_argument("--run", type=Path, required=True, nargs="+")
    parser.add_argument("--like", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    export(options.run, options.like, options.out)


if __name__ == "__main__":
    main()
