"""Reading a page and answering: rave-mlx beside mlx-vlm and transformers, on one random checkpoint in one run.

    python benchmarks/chat.py                                    # rave-mlx, gated and not; transformers if installed
    python benchmarks/chat.py --peer-python other-venv/bin/python  # and mlx-vlm from another environment

Every row runs in a process of its own: 992 visual tokens, 33 greedy tokens, float32, then a second question about the
same page. mlx-vlm runs twice, as it installs and with the optimized BLAS that rave-mlx binds. The last column is each
program's time to the first token over rave-mlx's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

QUESTION, SECOND = "What is the total of this page, and who wrote it?", "And the date?"
TOKENS = 33
Row = dict[str, float]


def rave(folder: Path, gated: bool) -> Row:
    """rave-mlx: a question about a page, then a second one; `gated`: with gates that do something."""
    import checkpoint
    import mlx.core as mx
    from PIL import Image

    import rave_mlx
    from rave_mlx.chat.session import Session
    from rave_mlx.config import GateConfig
    from rave_mlx.convert import convert

    if gated:
        target = folder.with_name(folder.name + "-gated")
        if not target.exists():
            convert(folder, target, gate=GateConfig())
        folder = target
    lmm = rave_mlx.load(folder)
    for gate in lmm.decoder.gates:
        gate.W = 0.1 * mx.random.normal(gate.W.shape)
    image = Image.fromarray(checkpoint.page())
    session = Session(lmm, max_tokens=TOKENS)
    list(session.send("Warm up.", [image.crop((0, 0, 280, 280))]))
    session.reset()
    mx.reset_peak_memory()
    rows = []
    for question, images in ((QUESTION, [image]), (SECOND, [])):
        list(session.send(question, images))
        assert session.stats is not None
        rows.append(session.stats)
    return {
        "first token s": rows[0].first_token_seconds,
        "second turn s": rows[1].first_token_seconds,
        "tokens/s": rows[0].tokens_per_second,
    }


def peer(folder: Path, fast_blas: bool) -> Row:
    """mlx-vlm on the same ids and pixels, through its own generation loop."""
    if fast_blas:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from rave_mlx import backend

        backend.prepare()
    import mlx.core as mx
    import numpy as np
    from mlx_vlm.generate.ar import generate_step
    from mlx_vlm.utils import load_model

    model = load_model(folder)
    inputs = np.load(folder / "prompt.npz")
    start, times = time.perf_counter(), []
    for _, _ in zip(
        range(TOKENS),
        generate_step(
            mx.array(inputs["ids"]), model, mx.array(inputs["pixels"]), None, max_tokens=TOKENS, temperature=0.0,
            image_grid_thw=mx.array(inputs["grid"]),
        ), strict=False,
    ):  # fmt: skip
        times.append(time.perf_counter() - start)
    return {"first token s": times[0], "tokens/s": (len(times) - 1) / (times[-1] - times[0])}


def torch_peer(folder: Path) -> Row:
    """transformers on the same ids and pixels; the time of one token is taken from that of all."""
    import numpy as np
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = np.load(folder / "prompt.npz")
    ids = torch.tensor(inputs["ids"].astype(np.int64))
    options: dict[str, Any] = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == 6).long(),
        "pixel_values": torch.tensor(inputs["pixels"]), "image_grid_thw": torch.tensor(inputs["grid"]),
        "do_sample": False,
    }  # fmt: skip
    seconds = []
    with torch.no_grad():
        for count in (1, TOKENS):
            start = time.perf_counter()
            model.generate(**options, max_new_tokens=count, min_new_tokens=count)
            seconds.append(time.perf_counter() - start)
    return {"first token s": seconds[0], "tokens/s": (TOKENS - 1) / (seconds[1] - seconds[0])}


WORKERS = {
    "rave-mlx": lambda folder: rave(folder, gated=False),
    "rave-mlx, gated": lambda folder: rave(folder, gated=True),
    "mlx-vlm as installed": lambda folder: peer(folder, fast_blas=False),
    "mlx-vlm, same BLAS": lambda folder: peer(folder, fast_blas=True),
    "transformers (torch)": torch_peer,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="python of an environment with mlx-vlm")
    parser.add_argument("--only", nargs="*", choices=list(WORKERS), help="rows to run")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, folder = options.worker
        row = WORKERS[name](Path(folder))
        row["peak GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps(row))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = prepare(Path(temporary) / "random-160m")
        rows = {}
        for name in options.only or WORKERS:
            python = options.peer_python if name.startswith("mlx-vlm") else sys.executable
            if python is None or ("torch" in name and importlib.util.find_spec("torch") is None):
                continue
            command = [python, __file__, "--worker", name, str(folder)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=os.environ)
            if done.returncode:
                print(f"{name}: failed", file=sys.stderr)
                continue
            rows[name] = json.loads(done.stdout.splitlines()[-1])
            show(name, rows[name], rows.get("rave-mlx"))


def prepare(folder: Path) -> Path:
    """The checkpoint, and the prompt as arrays for the peers."""
    import checkpoint
    import numpy as np
    from PIL import Image

    from rave_mlx.convert.open import open_model

    checkpoint.build(folder)
    lmm, _ = open_model(folder)
    content = [{"type": "image", "image": Image.fromarray(checkpoint.page())}, {"type": "text", "text": QUESTION}]
    prompt = lmm.prepare([{"role": "user", "content": content}])
    np.savez(folder / "prompt.npz", ids=prompt.ids, pixels=prompt.pixels, grid=[i.grid for i in prompt.images])
    return folder


def show(name: str, row: Row, base: Row | None) -> None:
    """Print one program's figures.

    Args:
        name: of the program.
        row: its figures.
        base: those of rave-mlx, to compare with; None to print none.
    """
    cells = [
        f"{key} {row[key]:8.2f}" for key in ("first token s", "second turn s", "tokens/s", "peak GB") if key in row
    ]
    ratio = f"  x{row['first token s'] / base['first token s']:.2f}" if base else ""
    print(f"{name:22s} {'  '.join(cells)}{ratio}", flush=True)


if __name__ == "__main__":
    main()
