"""Mutated checkpoints: refused with one line, or loaded into a model that answers with finite numbers.

`PYTHONPATH=tests python tests/convert/test_convert_fuzz.py COUNT [FIRST_SEED]` runs a longer campaign; it prints what
went wrong and the seed.
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

COUNT = 2000
SECONDS = 20
"""Longest time a single checkpoint may take, on a busy machine."""
MEMORY = 1_500_000_000
CASES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl-deep", "llava", "llava_next", "llava_onevision", "smolvlm", "internvl",
         "paddleocr_vl-tied", "glm_ocr-bare", "glm46v", "hunyuan_vl",
         "pixtral-states", "mistral3", "lighton_ocr-patches", "gemma3", "gemma4", "gemma4_unified",
         "got_ocr2", "deepseek_ocr2",
         "qwen2-sliding", "phi3-longrope-long", "llama-llama3", "qwen2-yarn")  # fmt: skip
SETTINGS = ("config.json", "preprocessor_config.json", "generation_config.json", "model.safetensors.index.json")
VALUES = [0, 1, -1, 2, 3, 7, 16, 64, 255, 2**31 - 1, 2**31, 2**32, 2**40, 2**63, -(2**63), 10**9, 10**30, 0.0, -0.5,
          0.5, 1e-30, 1e30, 1e308, math.inf, -math.inf, math.nan, True, False, None, "", "x", "64", "default",
          "\ud800", [], [0], [1, 2, 3], [-1], [2**40], [[1]], {}, {"a": 1}, [None], ["x"], [0.5] * 3]  # fmt: skip


def mutate(rng, value):
    """A changed copy of JSON data: one place, usually deep inside, gets another value, goes away or is doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        if rng.random() < 0.08:
            return {n: v for n, v in value.items() if n != name}
        if rng.random() < 0.05:
            return value | {rng.choice(["x", "gate", "rope_theta", "dtype", name + "s"]): rng.choice(VALUES)}
        if rng.random() < 0.05:
            other = rng.choice(list(value))
            return value | {name: value[other], other: value[name]}
        return value | {name: mutate(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        choice = rng.random()
        if choice < 0.15:
            return value[:at] + value[at + 1 :]
        if choice < 0.3:
            return [*value, value[at]]
        return [*value[:at], mutate(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.4:
        other = [value + 1, value - 1, -value, value * 2, value // 2, value * 1000, value * 10**12, str(value)]
        return rng.choice(other)
    return rng.choice(VALUES)


def flip(rng, data):
    """A few bytes changed, dropped or added."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(data))
        choice = rng.random()
        if choice < 0.6:
            data[at] ^= 1 << rng.randrange(8)
        elif choice < 0.75:
            data[at] = rng.choice(b'0129-"{}[],:e.\\\0\xff')
        elif choice < 0.9:
            del data[at : at + rng.choice([1, 1, 5, 40])]
        else:
            data[at:at] = data[at : at + rng.choice([1, 20])]
        if not data:
            break
    return bytes(data)


def duplicate_key(rng, text):
    """A JSON text in which some key stands twice."""
    keys = [i for i, c in enumerate(text) if c == "{" and text[i + 1 : i + 2] == '"']
    at = rng.choice(keys)
    name, value, *_ = json.JSONDecoder().raw_decode(text[at + 1 :])[0], rng.choice(VALUES)
    return f"{text[: at + 1]}{json.dumps(name)}: {json.dumps(value)}, {text[at + 1 :]}"


def mutate_text(rng, text):
    """A mutated JSON file."""
    choice = rng.random()
    if choice < 0.15:
        return flip(rng, text.encode())
    if choice < 0.2 and '{"' in text:
        return duplicate_key(rng, text).encode()
    data = json.loads(text)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        data = mutate(rng, data)
    return json.dumps(data).encode()


def mutate_weights(rng, file):
    """A safetensors file with a mutated header, or another length of it or of the file."""
    length = int.from_bytes(file[:8], "little")
    header, data = file[8 : 8 + length], file[8 + length :]
    choice = rng.random()
    if choice < 0.1:
        wrong = rng.choice([0, 1, length - 1, length + 1, len(file), 2**31, 2**63, 2**64 - 1, rng.randrange(2**20)])
        return wrong.to_bytes(8, "little") + header + data
    if choice < 0.2:
        return file[: rng.randrange(len(file))] if rng.random() < 0.7 else file + b"\0" * rng.choice([1, 8, 1000])
    header = mutate_text(rng, header.decode())
    return len(header).to_bytes(8, "little") + header + data


class Trial:
    """Checkpoints in a folder, one file of one of them mutated at a time."""

    def __init__(self, folder):
        from families import CONVERSATIONS, cases, write_checkpoint

        self.folder = folder
        self.conversations = CONVERSATIONS
        known = cases()
        self.checkpoints = {n: write_checkpoint(known[n], folder / n) for n in CASES if n in known}
        self.images = {n: "one image" in known[n].conversations for n in self.checkpoints}
        for path in self.checkpoints.values():
            (path / "generation_config.json").write_text('{"eos_token_id": [2], "bos_token_id": null}')
            names = self._names(path)
            index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "model.safetensors")}
            (path / "model.safetensors.index.json").write_text(json.dumps(index))

    def _names(self, path):
        from rave_mlx.checkpoint.safetensors_reader import read_entries

        return list(read_entries(path / "model.safetensors"))

    def run(self, seed):
        """ "refused", "loaded" or "converted"; whatever else happens is an exception."""
        rng = random.Random(seed)
        name = rng.choice(list(self.checkpoints))
        path = self.checkpoints[name]
        weights = rng.random() < 0.5
        files = ["model.safetensors"] if weights else [f for f in SETTINGS if (path / f).is_file()]
        file = path / (files[0] if weights or rng.random() < 0.6 else rng.choice(files))
        original = file.read_bytes()
        file.write_bytes(mutate_weights(rng, original) if weights else mutate_text(rng, original.decode()))
        try:
            return self._open(rng, name, path, file if weights else None)
        finally:
            file.write_bytes(original)

    def _open(self, rng, name, path, weights):
        import rave_mlx
        from rave_mlx.convert import convert, plan
        from rave_mlx.errors import RaveError

        out = self.folder / "out"
        try:
            if rng.random() < 0.1:
                plan(path)
                convert(path, out, note=lambda text: None)
                result = "converted"
                lmm = rave_mlx.load(out)
            else:
                lmm = rave_mlx.load(path)
                result = "loaded"
            self._answer(lmm, name)
        except RaveError as error:
            message = str(error)
            assert message, "an empty message"
            assert "\n" not in message, f"more than one line: {message!r}"
            assert len(message) < 4000, f"{len(message)} characters: {message[:200]}"
            result = "refused"
        else:
            if weights is not None:
                self._compare(weights)
        if out.exists():
            shutil.rmtree(out)
        left = sorted(p.name for p in self.folder.iterdir())
        assert left == sorted(self.checkpoints), f"left behind: {left}"
        return result

    def _answer(self, lmm, name):
        import numpy as np

        from rave_mlx.config import TileConfig
        from rave_mlx.inputs.images.tiling import least_tokens

        kind = "one image" if self.images[name] else "text"
        tiles = lmm.config.image if isinstance(lmm.config.image, TileConfig) else None
        budget = 64 if tiles is None else max(64, least_tokens(tiles))
        prompt = lmm.prepare(self.conversations[kind], image_tokens=budget)
        logits = np.array(lmm.logits(prompt))
        assert np.isfinite(logits).all(), "logits that are no numbers"

    def _compare(self, file):
        """The format's own library reads the same tensors."""
        import numpy as np
        from safetensors.numpy import load_file

        from rave_mlx.checkpoint.safetensors_reader import open_files

        expected, found = load_file(file), open_files([file])
        assert found.keys() == expected.keys()
        assert all((np.array(found[n]) == expected[n]).all() for n in expected)


@contextmanager
def time_limit(seconds):
    def stop(*_):
        raise TimeoutError(f"longer than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def campaign(count, first):
    """Run trials and print a summary as JSON; failures go to stderr."""
    warnings.simplefilter("error")
    outcomes, failures = Counter(), 0
    with tempfile.TemporaryDirectory() as temporary:
        trial = Trial(Path(temporary) / "trial")
        for seed in range(first, first + count):
            try:
                with time_limit(SECONDS):
                    outcomes[trial.run(seed)] += 1
            # Any kind of failure is what is looked for.
            except Exception as error:  # noqa: BLE001
                failures += 1
                where = "".join(traceback.format_tb(error.__traceback__)[-2:])
                print(f"seed {seed}: {type(error).__name__}: {str(error)[:500]}\n{where}", file=sys.stderr, flush=True)
                shutil.rmtree(trial.folder / "out", ignore_errors=True)
        beside = [p.name for p in Path(temporary).iterdir()]
    print(json.dumps({"outcomes": outcomes, "failures": failures, "peak": peak_memory(), "beside": beside}))


def peak_memory():
    """Bytes of this program at most. Linux's ru_maxrss also counts the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_mutated_checkpoints_are_refused_or_answer():
    command = [sys.executable, __file__, str(COUNT), "0"]
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1200, check=False, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report["failures"] == 0, done.stderr[-6000:]
    assert report["peak"] < MEMORY
    assert report["beside"] == ["trial"]
    # Mutations that do nothing, or nothing that matters, are there, and most do matter.
    assert sum(report["outcomes"].values()) == COUNT
    assert report["outcomes"]["refused"] > COUNT / 2
    assert report["outcomes"]["loaded"] > COUNT / 20
    assert report["outcomes"]["converted"] > COUNT / 200


if __name__ == "__main__":
    if sys.platform == "linux":
        # A wrong size that is believed shows as a failed allocation, not as a machine without memory.
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    campaign(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10**6)
