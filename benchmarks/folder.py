"""A folder of images transcribed: `rave-mlx read` beside mlx-vlm in a loop, the same random weights, prompt and BLAS.

    python benchmarks/folder.py --peer-python other-venv/bin/python [--count 200] [--tokens 32]

Both run as a process of their own over the same files, one after the other, with one BLAS thread (set
OPENBLAS_NUM_THREADS to change that), and write as many greedy tokens of each. Prints wall-clock and processor seconds
of the loop, the model loaded. The bytes that random weights write are no text, so that there are no texts to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT = "Read all of the text on this page."


def draw(folder: Path, count: int) -> None:
    """Receipts of about 200 visual tokens."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(20)
    for number in range(count):
        image = Image.new("RGB", (448, 336), "white")
        lines = [f"HARBOUR CAFE {number}", f"Date 2026-03-{number % 28 + 1:02d}", "Coffee 3.40", f"Total {number}.40"]
        ImageDraw.Draw(image).multiline_text((20, 20), "\n".join(lines), fill="black", font=font, spacing=20)
        image.save(folder / f"{number:04d}.png")


def ours(model: Path, images: Path, tokens: int) -> tuple[float, float]:
    """Seconds of `rave_mlx.generate` for many conversations: wall-clock, processor."""
    import rave_mlx

    lmm = rave_mlx.load(model)
    begun = time.perf_counter(), time.process_time()
    asked = [
        [{"role": "user", "content": [{"type": "image", "image": str(file)}, {"type": "text", "text": PROMPT}]}]
        for file in sorted(images.iterdir())
    ]
    rave_mlx.generate(lmm, asked, max_tokens=tokens, temperature=0.0)
    return time.perf_counter() - begun[0], time.process_time() - begun[1]


def peer(model: Path, images: Path, tokens: int) -> tuple[float, float]:
    """Seconds of mlx-vlm's `generate`, image by image: wall-clock, processor."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from rave_mlx import backend

    backend.prepare()
    from mlx_vlm import generate, load
    from mlx_vlm.prompt_utils import apply_chat_template

    loaded, processor = load(str(model))
    prompt = apply_chat_template(processor, loaded.config, PROMPT, num_images=1)
    begun = time.perf_counter(), time.process_time()
    for file in sorted(images.iterdir()):
        generate(loaded, processor, prompt, image=[str(file)], max_tokens=tokens, temperature=0.0)
    return time.perf_counter() - begun[0], time.process_time() - begun[1]


WORKERS = {"rave-mlx": ours, "mlx-vlm": peer}


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="python of an environment with mlx-vlm; without it only ours runs")
    parser.add_argument("--count", type=int, default=200, help="images")
    parser.add_argument("--tokens", type=int, default=32, help="of each text")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, model, images = options.worker
        print(json.dumps(WORKERS[name](Path(model), Path(images), options.tokens)))
        return
    import checkpoint

    environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **os.environ}
    with tempfile.TemporaryDirectory() as temporary:
        images = Path(temporary) / "images"
        images.mkdir()
        draw(images, options.count)
        model = checkpoint.build(Path(temporary) / "random-160m", vocabulary=272)
        pythons = {"rave-mlx": sys.executable, "mlx-vlm": options.peer_python}
        for name, python in pythons.items():
            if python is None:
                continue
            command = [python, __file__, "--tokens", str(options.tokens), "--worker", name, str(model), str(images)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            seconds, processor = json.loads(done.stdout.splitlines()[-1])
            rate = options.count / seconds
            print(f"{name:9s} {seconds:7.1f} s, {processor:7.1f} processor s, {rate:.2f} images/s", flush=True)


if __name__ == "__main__":
    main()
