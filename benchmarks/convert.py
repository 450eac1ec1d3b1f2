"""Converting a checkpoint: rave-mlx beside mlx-vlm on the same files in one run, speed and peak memory.

    python benchmarks/convert.py                                      # rave-mlx alone
    python benchmarks/convert.py --peer-python other-venv/bin/python  # and mlx-vlm from another environment
    python benchmarks/convert.py --quantize 4                         # both quantize, affine, groups of 64

The checkpoint is synthetic: Qwen2.5-VL's shape, random bfloat16, in shards, 3 GB by default (it needs twice that of
disk). Each program runs as its own process from its command line, twice by turns after the files have been read
once, and the faster run counts; peak memory is the larger of the two. The limit is what rave-mlx promises: the
largest tensor times three, and 500 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import checkpoint
import numpy as np

from rave_mlx.checkpoint.directory import BUILT_IN

RUNS = 2
SHARD = 1_000_000_000
WIDTH, INNER, KEYS, VOCABULARY = 2048, 11008, 256, 32000
LAUNCHER = """
import os, sys, time
start = time.perf_counter()
_, status, usage = os.wait4(os.spawnvp(os.P_NOWAIT, sys.argv[1], sys.argv[1:]), 0)
print(time.perf_counter() - start, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs a command; a process of its own because a child counts its parent's memory as its peak until it starts."""


@dataclass(frozen=True)
class Measured:
    """One conversion: wall time in seconds, peak resident bytes."""

    seconds: float
    peak: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="python of an environment with mlx-vlm")
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the checkpoint")
    parser.add_argument("--quantize", type=int, metavar="BITS", help="quantize to this many bits")
    parser.add_argument("--folder", help="where to work; default: the system's temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        source, out = Path(temporary) / "checkpoint", Path(temporary) / "out"
        largest = build(source, options.gigabytes)
        size = sum(f.stat().st_size for f in source.glob("*.safetensors"))
        limit = 3 * largest + 500e6
        print(f"{size / 1e9:.2f} GB in {len(list(source.glob('*.safetensors')))} files, largest tensor "
              f"{largest / 1e6:.0f} MB, limit {limit / 1e6:,.0f} MB")  # fmt: skip
        bits = options.quantize
        commands = {"rave-mlx": [sys.executable, "-c", "from rave_mlx.cli.main import run; run()", "convert",
                                 str(source), str(out), *(["--quantize", str(bits)] if bits else [])]}  # fmt: skip
        if options.peer_python:
            quantize = ["-q", "--q-bits", str(bits), "--q-group-size", "64"] if bits else []
            commands["mlx-vlm"] = [options.peer_python, "-m", "mlx_vlm.convert", "--hf-path", str(source),
                                   "--mlx-path", str(out), *quantize]  # fmt: skip
        rows: dict[str, list[Measured]] = {name: [] for name in commands}
        for _ in range(RUNS):
            for name, command in commands.items():
                rows[name].append(measure(command, source))
                shutil.rmtree(out)
        show(rows, size, limit)


def measure(command: list[str], source: Path) -> Measured:
    """Run a command with its input in the page cache and earlier output on the disk."""
    for file in source.glob("*.safetensors"):
        with file.open("rb") as stream:
            while stream.read(1 << 24):
                pass
    os.sync()
    done = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, *command],
        capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stderr[-2000:]}")
    seconds, peak = done.stdout.splitlines()[-1].split()
    return Measured(float(seconds), int(peak) * (1 if sys.platform == "darwin" else 1024))


def show(rows: dict[str, list[Measured]], size: int, limit: float) -> None:
    """A table with ratios to the first row.

    Args:
        rows: the runs of each program.
        size: of the checkpoint in bytes.
        limit: of memory, in bytes.
    """
    base = rows["rave-mlx"]
    fastest, peak = min(m.seconds for m in base), max(m.peak for m in base)
    for name, runs in rows.items():
        seconds, memory = min(m.seconds for m in runs), max(m.peak for m in runs)
        within = "within the limit" if memory <= limit else "over the limit"
        print(f"{name:10s} {seconds:7.2f} s  {size / seconds / 1e6:7.0f} MB/s (x{fastest / seconds:.2f})  "
              f"peak {memory / 1e6:7,.0f} MB (x{memory / peak:.2f}), {within}")  # fmt: skip


def build(folder: Path, gigabytes: float) -> int:
    """Write the checkpoint; returns the bytes of its largest tensor."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    layer = 2 * (2 * WIDTH * WIDTH + 2 * KEYS * WIDTH + 3 * WIDTH * INNER)
    layers = max(1, round((gigabytes * 1e9 - 2 * VOCABULARY * WIDTH) / layer))
    shapes = dict(tensor_shapes(layers))
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        if size + 2 * int(np.prod(shape)) > SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += 2 * int(np.prod(shape))
    weight_map = {}
    for index, shard in enumerate(shards, 1):
        name = f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        write(folder / name, shard, rng)
        weight_map |= dict.fromkeys(shard, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    write_settings(folder, layers)
    return 2 * max(int(np.prod(shape)) for shape in shapes.values())


def write_settings(folder: Path, layers: int) -> None:
    """Everything but weights, as transformers 4 wrote it: not every program reads the nested form."""
    processor = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 3136,
                 "max_pixels": 12845056, "image_processor_type": "Qwen2VLImageProcessor",
                 "processor_class": "Qwen2_5_VLProcessor"}  # fmt: skip
    vision = {"model_type": "qwen2_5_vl", **checkpoint.VISION, "out_hidden_size": WIDTH}
    config = {"model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"],
              "eos_token_id": checkpoint.END, "torch_dtype": "bfloat16", "vision_config": vision,
              **text(layers), **checkpoint.TOKENS}  # fmt: skip
    tokenizer = {
        "tokenizer_class": "Qwen2Tokenizer",
        "processor_class": "Qwen2_5_VLProcessor",
        "eos_token": "<|im_end|>",
    }
    for name, content in (("config", config), ("preprocessor_config", processor), ("tokenizer_config", tokenizer),
                          ("generation_config", {"eos_token_id": checkpoint.END})):  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1))
    for name in ("tokenizer.json", "chat_template.jinja"):
        (folder / name).write_bytes((BUILT_IN / name).read_bytes())


def text(layers: int) -> dict[str, object]:
    """The decoder's settings."""
    return checkpoint.TEXT | {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": layers,
        "num_attention_heads": 16, "num_key_value_heads": 2,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    }  # fmt: skip


def tensor_shapes(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of transformers 4."""
    yield "model.embed_tokens.weight", (VOCABULARY, WIDTH)
    yield "model.norm.weight", (WIDTH,)
    for i in range(layers):
        at = f"model.layers.{i}"
        yield f"{at}.input_layernorm.weight", (WIDTH,)
        yield f"{at}.post_attention_layernorm.weight", (WIDTH,)
        for name, rows in (("q", WIDTH), ("k", KEYS), ("v", KEYS)):
            yield f"{at}.self_attn.{name}_proj.weight", (rows, WIDTH)
            yield f"{at}.self_attn.{name}_proj.bias", (rows,)
        yield f"{at}.self_attn.o_proj.weight", (WIDTH, WIDTH)
        yield f"{at}.mlp.gate_proj.weight", (INNER, WIDTH)
        yield f"{at}.mlp.up_proj.weight", (INNER, WIDTH)
        yield f"{at}.mlp.down_proj.weight", (WIDTH, INNER)
    narrow, inner = checkpoint.VISION["hidden_size"], checkpoint.VISION["intermediate_size"]
    yield "visual.patch_embed.proj.weight", (narrow, 3, 2, 14, 14)
    yield "visual.merger.ln_q.weight", (narrow,)
    for name, rows in (("0", 4 * narrow), ("2", WIDTH)):
        yield f"visual.merger.mlp.{name}.weight", (rows, 4 * narrow)
        yield f"visual.merger.mlp.{name}.bias", (rows,)
    for i in range(checkpoint.VISION["depth"]):
        for name in ("norm1", "norm2"):
            yield f"visual.blocks.{i}.{name}.weight", (narrow,)
        for name, rows, columns in (
            ("attn.qkv", 3 * narrow, narrow),
            ("attn.proj", narrow, narrow),
            ("mlp.gate_proj", inner, narrow),
            ("mlp.up_proj", inner, narrow),
            ("mlp.down_proj", narrow, inner),
        ):
            yield f"visual.blocks.{i}.{name}.weight", (rows, columns)
            yield f"visual.blocks.{i}.{name}.bias", (rows,)


def write(file: Path, shapes: dict[str, tuple[int, ...]], rng: np.random.Generator) -> None:
    """A safetensors file of random bfloat16, one tensor at a time.

    Args:
        file: to write.
        shapes: tensors by name.
        rng: the generator to draw from.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        first, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [first, end]}
    head = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        for shape in shapes.values():
            numbers = rng.standard_normal(int(np.prod(shape)), dtype=np.float32) * np.float32(shape[-1] ** -0.5)
            stream.write((numbers.view(np.uint32) >> 16).astype(np.uint16).data)


if __name__ == "__main__":
    main()
