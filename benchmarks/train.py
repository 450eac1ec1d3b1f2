"""Fine-tuning: rave-mlx's trainer beside mlx-vlm's, on one random checkpoint and the same rows, in one run.

    python benchmarks/train.py                                      # rave-mlx, gated and not
    python benchmarks/train.py --peer-python other-venv/bin/python  # and mlx-vlm from another environment
    python benchmarks/train.py --tokens 1024 2048 4096 --batch 1 2 --vocabulary 151936

Both train LoRA of rank 8 on all seven projections of every decoder layer, from the same initial values, with AdamW
at a constant 2e-4, float32, tower frozen, on rows of one page, a question and an answer of about 60 tokens. Two
epochs of three updates (`--updates`): the first update warms up and is not counted, nor is what comes after the last.
`rave_mlx.train.run` and `mlx_vlm.trainer.vlm.sft.runtime.train_vlm` do the training. Time is from one report of an
update to the next, reading data included; but mlx-vlm is given its rows ready (ids, pixels, grids) where rave-mlx
reads files. "Later epochs" are those in which rave-mlx has the features of its frozen tower already; mlx-vlm
computes them every time.

The loss mask of mlx-vlm: as installed it trains on images and questions. Its own option `train_on_completions` with
the batch's field `completion_mask` takes any mask; here that is rave-mlx's, answers only. Its rows come in
rave-mlx's order (`iterate_batches`), without padding to multiples of 32. The losses of all updates must then agree,
which is checked: it shows that both do the same work. Nothing of mlx-vlm is patched.

Every program runs in a process of its own. mlx-vlm runs as it installs (one update, since it takes minutes) and with
the optimized BLAS that rave-mlx binds. Peak memory is MLX's own count, weights included, and the process' resident
peak. Ratios are rave-mlx over that row, in time of the first epoch, of later ones, and in MLX's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

EPOCHS = 2
RATE, DECAY, RANK, SCALE = 2e-4, 0.01, 8, 2.0
SIDE = 28
"""Pixels of a visual token's side."""
QUESTION = "What does this page say, line by line?"
AGREE = 2e-3
"""Largest difference of two losses of the same work in float32."""
PROGRAMS = ("rave-mlx", "rave-mlx, gates too", "mlx-vlm, same BLAS", "mlx-vlm as installed")


@dataclass
class Measured:
    """One program's run: of every update the loss, wall and processor seconds; peaks in bytes."""

    losses: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    tokens: int = 0
    peak: int = 0
    resident: int = 0


class Clock:
    """Wall and processor time between updates."""

    def __init__(self, measured: Measured):
        self._measured = measured
        self._last = (time.perf_counter(), time.process_time())

    def step(self, loss: float) -> None:
        """An update was reported."""
        now = (time.perf_counter(), time.process_time())
        self._measured.losses.append(loss)
        self._measured.wall.append(now[0] - self._last[0])
        self._measured.cpu.append(now[1] - self._last[1])
        self._last = now


def rave(folder: Path, options: argparse.Namespace, gates: bool) -> Measured:
    """rave-mlx's trainer.

    Args:
        folder: with the checkpoint and the data set.
        options: of the command line.
        gates: whether pair gates train beside LoRA.
    """
    import mlx.core as mx

    import rave_mlx
    from rave_mlx.train.run import run

    measured = Measured()
    lmm = rave_mlx.load(folder / "model")
    clock = Clock(measured)

    class Follow:
        def update(self, update: Any) -> None:
            clock.step(update.loss)
            measured.tokens = update.tokens

        def validation(self, validation: Any) -> None: ...

        def note(self, text: str) -> None: ...

        def saved(self, path: Path) -> None: ...

        def close(self) -> None: ...

    run(lmm, folder / "data", folder / f"out-{gates}", settings(options, gates), listeners=lambda *_: [Follow()])
    measured.peak = mx.get_peak_memory()
    return measured


def settings(options: argparse.Namespace, gates: bool = False) -> Any:
    """The settings of both programs, as rave-mlx has them."""
    from rave_mlx.train.config import AdapterSettings, TrainConfig

    return TrainConfig(
        gates=gates, adapter=AdapterSettings(rank=RANK, scale=SCALE), batch_size=options.batch,
        steps=options.updates * EPOCHS, learning_rate=RATE, weight_decay=DECAY, schedule="constant", warmup=0, clip=0,
        checkpointing=options.checkpointing,
    )  # fmt: skip


def peer(folder: Path, options: argparse.Namespace, fast_blas: bool) -> Measured:
    """mlx-vlm's own training loop over rows that are ready.

    Args:
        folder: with the checkpoint, the rows, their order and the initial values.
        options: of the command line.
        fast_blas: whether it runs on the BLAS that rave-mlx binds.
    """
    if fast_blas:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from rave_mlx import backend

        backend.prepare()
    import mlx.core as mx
    import mlx.optimizers as optim
    import numpy as np
    from mlx_vlm.trainer.peft import get_peft_model
    from mlx_vlm.trainer.vlm.config import VLMTrainingArgs
    from mlx_vlm.trainer.vlm.sft.runtime import collate_vlm_batch, train_vlm
    from mlx_vlm.utils import load_model

    model = get_peft_model(load_model(folder / "model"), rank=RANK, alpha=SCALE * RANK, dropout=0.0, verbose=False)
    initial = dict(mx.load(str(folder / "lora.safetensors")))
    model.load_weights(list(initial.items()), strict=False)
    rows = {int(file.stem): dict(np.load(file)) for file in folder.glob("rows/*.npz")}
    order = json.loads((folder / "order.json").read_text())
    measured = Measured(tokens=sum(rows[i]["input_ids"].size for i in order[-1]))
    arguments = VLMTrainingArgs(
        batch_size=options.batch, iters=len(order) if fast_blas else 1, steps_per_report=1, steps_per_eval=None,
        steps_per_save=1000, adapter_file=str(folder / "peer" / "adapters.safetensors"), max_seq_length=1 << 20,
        pad_to_multiple=1, train_on_completions=True, grad_checkpoint=options.checkpointing,
    )  # fmt: skip

    def batches(dataset: Any, **_: Any) -> Iterator[Any]:
        for picked in order:
            yield collate_vlm_batch([dataset[i] for i in picked], 1 << 20, pad_to_multiple=1)

    mx.reset_peak_memory()
    clock = Clock(measured)

    class Follow:
        def on_train_loss_report(self, info: dict[str, Any]) -> None:
            clock.step(info["train_loss"])

    optimizer = optim.AdamW(RATE, weight_decay=DECAY, bias_correction=True)
    train_vlm(model, optimizer, rows, None, arguments, iterate_batches=batches, training_callback=Follow())
    measured.peak = mx.get_peak_memory()
    return measured


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """The checkpoint, the data set, and for mlx-vlm the same rows, order and initial values as arrays."""
    import checkpoint
    import mlx.core as mx
    import numpy as np
    from PIL import Image

    import rave_mlx
    from rave_mlx.train.batch_sampler import BatchSampler
    from rave_mlx.train.dataset import open_dataset
    from rave_mlx.train.parameters import prepare as attach
    from rave_mlx.train.parameters import trained_weights

    checkpoint.build(folder / "model", vocabulary=options.vocabulary)
    (folder / "data").mkdir()
    rng, lines = np.random.default_rng(2), []
    for i in range(options.updates * options.batch):
        page = checkpoint.page(31 * SIDE, (options.tokens - 100) // 31 * SIDE, seed=i)
        Image.fromarray(page).save(folder / "data" / f"{i}.png")
        answer = " ".join(f"{name} {rng.integers(1, 999)}" for name in rng.choice(["Total", "Item", "Tax"], 7))
        lines.append(json.dumps({"image": f"{i}.png", "question": QUESTION, "answer": answer}))
    (folder / "data" / "train.jsonl").write_text("\n".join(lines) + "\n")
    lmm, config = rave_mlx.load(folder / "model"), settings(options)
    rows = open_dataset(folder / "data", lmm)
    (folder / "rows").mkdir()
    for i, row in enumerate(rows):
        image = row.prompt.images[0]
        np.savez(folder / "rows" / f"{i}.npz", input_ids=row.prompt.ids[0], completion_mask=row.loss_mask,
                 pixel_values=image.pixels, image_grid_thw=np.array([image.grid]))  # fmt: skip
    order = BatchSampler(rows.lengths, options.batch, config.seed)
    (folder / "order.json").write_text(json.dumps([b for epoch in range(EPOCHS) for b in order.batches(epoch)]))
    lmm, _ = attach(lmm, config)
    initial = {_peer_name(name): x for name, x in trained_weights(lmm).items()}
    mx.save_safetensors(str(folder / "lora.safetensors"), initial)
    shown = rows.stats[0]
    print(f"{sum(x.size for x in lmm.named_weights().values()) / 1e6:.0f} M parameters, "
          f"{sum(x.size for x in initial.values()) / 1e6:.1f} M trained; rows of {min(rows.lengths)} to "
          f"{max(rows.lengths)} tokens, {shown.visual} visual, {shown.trained_tokens} trained")  # fmt: skip


def _peer_name(name: str) -> str:
    """A trained tensor's name in mlx-vlm."""
    return name.replace("decoder.", "language_model.model.").replace(".attention.", ".self_attn.")


WORKERS = {
    "rave-mlx": lambda folder, options: rave(folder, options, gates=False),
    "rave-mlx, gates too": lambda folder, options: rave(folder, options, gates=True),
    "mlx-vlm, same BLAS": lambda folder, options: peer(folder, options, fast_blas=True),
    "mlx-vlm as installed": lambda folder, options: peer(folder, options, fast_blas=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="python of an environment with mlx-vlm")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024], help="tokens of a row, about")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="rows of an update")
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32000], help="Qwen2.5-VL's is 151936")
    parser.add_argument("--updates", type=int, default=3, help="of an epoch, at least 2")
    parser.add_argument("--checkpointing", action="store_true", help="compute activations again, in both programs")
    parser.add_argument("--only", nargs="*", choices=PROGRAMS, default=PROGRAMS, help="rows to run")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(*options.worker, options)
        return
    for vocabulary in options.vocabulary:
        for tokens in options.tokens:
            for batch in options.batch:
                case = ["--tokens", str(tokens), "--batch", str(batch), "--vocabulary", str(vocabulary),
                        "--updates", str(options.updates)]  # fmt: skip
                compare(
                    case + ["--checkpointing"] * options.checkpointing,
                    options.updates,
                    options.only,
                    options.peer_python,
                )


def work(name: str, folder: str, options: argparse.Namespace) -> None:
    """Run the program `name` in this process, or "prepare" the case in `folder`, and print what came of it."""
    options.tokens, options.batch, options.vocabulary = options.tokens[0], options.batch[0], options.vocabulary[0]
    if name == "prepare":
        prepare(Path(folder), options)
        return
    measured = WORKERS[name](Path(folder), options)
    measured.resident = resident_peak()
    print(json.dumps(asdict(measured)))


def resident_peak() -> int:
    """Bytes; on Linux not `ru_maxrss`, which counts what the parent held when it started this process."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def compare(case: list[str], updates: int, programs: list[str], peer_python: str | None) -> None:
    """Run every program on one case, and print its table.

    Args:
        case: the case's options.
        updates: of an epoch.
        programs: to run.
        peer_python: python of an environment with mlx-vlm; None leaves mlx-vlm out.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder, rows = Path(temporary) / "random", dict[str, Measured]()
        print(f"\n{' '.join(case)}: {call(sys.executable, 'prepare', folder, case)}\n")
        print("| | s/update, first epoch (CPU s) | later epochs (CPU s) | tokens/s | MLX peak | resident peak "
              "| time, first / later / memory |\n|---|---|---|---|---|---|---|")  # fmt: skip
        for name in programs:
            python = peer_python if name.startswith("mlx-vlm") else sys.executable
            if python is None:
                continue
            rows[name] = Measured(**json.loads(call(python, name, folder, case)))
            show(name, rows[name], rows.get("rave-mlx"), updates)
        print()
        for name, row in rows.items():
            print(f"losses of {name}: {' '.join(f'{loss:.5f}' for loss in row.losses)}")
        same = [row.losses for name, row in rows.items() if name != "rave-mlx, gates too"]
        furthest = max((abs(a - b) for losses in same for a, b in zip(same[0], losses, strict=False)), default=0.0)
        print(f"largest difference: {furthest:.1e}")
        if not furthest < AGREE:
            sys.exit("the programs did not do the same work")


def call(python: str, name: str, folder: Path, case: list[str]) -> str:
    """The last line that the program `name` (or "prepare") prints when `python` runs it on a case."""
    command = [python, __file__, *case, "--worker", name, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=os.environ)
    if done.returncode:
        sys.exit(f"{name} failed")
    return done.stdout.splitlines()[-1]


def show(name: str, row: Measured, base: Measured | None, updates: int) -> None:
    """Print one program's row.

    Args:
        name: of the program.
        row: its figures.
        base: those of rave-mlx; None before they are known.
        updates: of an epoch.
    """
    first, later = timed(row, updates)
    tokens = row.tokens / (later or first)[0]
    ratios = "1"
    if base is not None and row is not base:
        own = timed(base, updates)
        quotients = [own[0][0] / first[0], own[1][0] / (later or first)[0], base.peak / row.peak]
        ratios = " / ".join(f"{x:.2f}" for x in quotients)
    times = [f"{pair[0]:.2f} ({pair[1]:.1f})" if pair else "" for pair in (first, later)]
    print(f"| {name} | {times[0]} | {times[1]} | {tokens:.0f} | {row.peak / 1e9:.2f} GB | {row.resident / 1e9:.2f} GB "
          f"| {ratios} |", flush=True)  # fmt: skip


def timed(row: Measured, updates: int) -> tuple[tuple[float, float], tuple[float, float] | None]:
    """Median wall and processor seconds of an update in the first epoch and in later ones."""
    spans = [slice(1 if len(row.wall) > 1 else 0, updates), slice(updates, None)]
    first, later = (
        (statistics.median(row.wall[span]), statistics.median(row.cpu[span])) if row.wall[span] else None
        for span in spans
    )
    assert first is not None
    return first, later


if __name__ == "__main__":
    main()
