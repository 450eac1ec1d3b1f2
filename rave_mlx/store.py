"""The rave directory: the one model format that the runtime reads.

    config.json            LMMConfig
    model*.safetensors     canonical tensor names
    tokenizer.json         `tokenizers` format
    chat_template.jinja    the chat template
    README.md              the model card
    hub/                   configuration files of the checkpoint it was converted from, for export only

A directory is written beside its place and renamed into it, so a crash leaves the old one or the new one.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx

from rave_mlx.config import LMMConfig
from rave_mlx.errors import ConfigError, ModelError

CONFIG, TOKENIZER, TEMPLATE, CARD = "config.json", "tokenizer.json", "chat_template.jinja", "README.md"
HUB = "hub"
SHARD_BYTES = 4 << 30
_SHOWN = 10


def is_rave_directory(path: Path) -> bool:
    """Whether `path` holds a rave directory's configuration (and not, say, a foreign checkpoint's)."""
    try:
        return "format" in json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def read_config(path: Path) -> LMMConfig:
    """The configuration of a rave directory.

    Raises:
        ConfigError: when the file is not JSON or holds something else than an LMMConfig.
    """
    file = path / CONFIG
    return LMMConfig.from_dict(read_json(file), str(file))


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file; ConfigError when it is missing, unreadable or not an object."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{file}: not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected a JSON object")
    return data


def read_tensors(path: Path) -> dict[str, mx.array]:
    """All tensors of the directory's safetensors files, lazily: bytes are read when a tensor is evaluated.

    Raises:
        ModelError: when there is no such file, or one is truncated or malformed, or a name occurs twice.
    """
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{path}: no *.safetensors file; the model directory is incomplete, download or convert it again"
        )
    tensors: dict[str, mx.array] = {}
    for file in files:
        try:
            part = mx.load(str(file))
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"{file}: not a complete safetensors file ({error}); download or convert it again"
            ) from None
        assert isinstance(part, dict)
        twice = set(part) & set(tensors)
        if twice:
            raise ModelError(f"{file}: tensor {min(twice)} is also in another file; remove the stale file")
        tensors.update(part)
    return tensors


def check_tensors(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Compare names and shapes.

    Raises:
        ModelError: naming missing, unexpected and misshapen tensors (at most ten of each).
    """
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    wrong = [
        f"{n} {list(found[n])} instead of {list(expected[n])}"
        for n in sorted(set(expected) & set(found))
        if found[n] != expected[n]
    ]
    problems = [
        f"{kind}: {_some(names)}"
        for kind, names in (("missing", missing), ("unexpected", extra), ("wrong shape", wrong))
        if names
    ]
    if problems:
        raise ModelError(f"{where}: the weights do not fit the configuration; {'; '.join(problems)}")


def write(
    out: Path,
    config: LMMConfig,
    tensors: Iterable[tuple[str, mx.array]],
    *,
    tokenizer: Path,
    template: str,
    card: str,
    hub: Mapping[str, bytes] | None = None,
) -> None:
    """Write a rave directory at `out`, which must not exist; `hub` are files for its folder of that name.

    Tensors are consumed one by one and written in shards of at most 4 GB, so peak memory is one shard.

    Raises:
        ModelError: when `out` exists.
    """
    with new_directory(out) as part:
        _write_shards(part, tensors)
        (part / CONFIG).write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(tokenizer, part / TOKENIZER)
        (part / TEMPLATE).write_text(template, encoding="utf-8")
        (part / CARD).write_text(card, encoding="utf-8")
        for name, content in (hub or {}).items():
            (part / HUB).mkdir(exist_ok=True)
            (part / HUB / name).write_bytes(content)


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A hidden directory beside `out` to fill, renamed to `out` when the block ends well, removed when it does not.

    Raises:
        ModelError: when `out` exists.
    """
    if out.exists():
        raise ModelError(f"{out}: already exists; choose another place or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield part
        part.chmod(0o755)
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _write_shards(folder: Path, tensors: Iterable[tuple[str, mx.array]]) -> None:
    shard: dict[str, mx.array] = {}
    size, files = 0, 0

    def flush() -> None:
        nonlocal shard, size, files
        files += 1
        mx.save_safetensors(str(folder / f"part-{files:05d}.safetensors"), shard, metadata={"format": "mlx"})
        shard, size = {}, 0

    for name, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            flush()
        shard[name] = tensor
        size += tensor.nbytes
    flush()
    for index in range(1, files + 1):
        name = "model.safetensors" if files == 1 else f"model-{index:05d}-of-{files:05d}.safetensors"
        (folder / f"part-{index:05d}.safetensors").rename(folder / name)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
