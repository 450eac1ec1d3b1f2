"""Data, models and runs that the tests of training share."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
from command import rave
from support import form, tiny_model

from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.directory import BUILT_IN
from rave_mlx.models.lmm import LMM
from rave_mlx.train import log
from rave_mlx.train.config import AdapterSettings, TrainConfig

LORA = AdapterSettings(rank=2, modules=("q_proj", "v_proj", "down_proj"))
DROPOUT = AdapterSettings(rank=2, modules=("q_proj", "v_proj", "down_proj"), dropout=0.2)


def write_data(folder: Path, train: int = 9, valid: int = 3, seed: int = 0) -> Path:
    """train.jsonl and valid.jsonl about small printed forms of several sizes; answers of 2 to 12 characters."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("valid", valid)):
        rows = []
        for i in range(count):
            total, vendor = f"{rng.randint(1, 999)}.{rng.randint(10, 99)}", rng.choice(["ACME", "KESTREL AIR", "IO"])
            page = form([vendor, total], size=(rng.choice([48, 64, 96]), 48), font=10)
            page.save(folder / f"{split}{i}.png")
            question, answer = rng.choice([("Total?", total), ("Who is the vendor?", vendor)])
            asked = [{"type": "image", "image": f"{split}{i}.png"}, {"type": "text", "text": question}]
            rows.append({"messages": [message("user", asked), message("assistant", answer)]})
        write_rows(folder / f"{split}.jsonl", rows)
    return folder


def message(role: str, content: object) -> dict:
    return {"role": role, "content": content}


def write_rows(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_model(folder: Path, lmm: LMM | None = None) -> Path:
    """The tiny model as a rave directory."""
    lmm = lmm or tiny_model()
    template = (BUILT_IN / directory.TEMPLATE).read_text()
    weights = sorted(lmm.named_weights().items())
    directory.write(folder, lmm.config, weights, tokenizer=BUILT_IN / directory.TOKENIZER, template=template, card="")
    return folder


def config(**changes) -> TrainConfig:
    """A short run; validation without answers."""
    settings = {"adapter": LORA, "batch_size": 2, "learning_rate": 1e-2, "eval_answers": 0, "workers": 1}
    return TrainConfig(**(settings | changes))


def command(*options: object) -> list[str]:
    """The command line of `rave-mlx train`."""
    return [sys.executable, "-c", "from rave_mlx.cli.main import run; run()", "train", *map(str, options)]


def environment(**more: str) -> dict[str, str]:
    root = Path(__file__).parent.parent
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **more}


def train_cli(*options: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `rave-mlx train` in this process, and check how it exits."""
    done = rave("train", *options)
    assert done.returncode == code, done.stderr
    return done


def train_process(*options: object, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `rave-mlx train` in a process of its own, with more environment variables, and check how it exits."""
    env = environment(**variables)
    done = subprocess.run(command(*options), capture_output=True, text=True, env=env, check=False)
    assert done.returncode == code, done.stderr
    return done


def losses(out: Path) -> list[float]:
    """Training losses of a run's log, exactly as they were."""
    return [entry["loss"] for entry in log.read(out) if "loss" in entry]


def history(out: Path) -> list[dict]:
    """A run's log without what depends on the clock or the machine."""
    return [{k: v for k, v in e.items() if k not in ("seconds", "peak_bytes")} for e in log.read(out)]


def result(out: Path) -> bytes:
    """The trained weights of a run, byte by byte."""
    return (out / "adapters.safetensors").read_bytes()


def arrays(weights) -> dict[str, np.ndarray]:
    return {name: np.array(x) for name, x in weights.items()}
