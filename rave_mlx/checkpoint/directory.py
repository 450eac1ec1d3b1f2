"""The rave directory: the one model format that the runtime reads.

    config.json            LMMConfig
    model*.safetensors     canonical tensor names
    tokenizer.json         `tokenizers` format
    chat_template.jinja    the chat template
    README.md              the model card
    finder/                what finds the words of a page that answer a question, where the model has it
    hub/                   configuration files of the checkpoint it was converted from, for export only

A directory is written beside its place and renamed into it, so a crash leaves the old one or the new one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx

from rave_mlx.checkpoint.partial import partial_directory, remove_stale
from rave_mlx.checkpoint.safetensors_reader import Tensors, open_files
from rave_mlx.checkpoint.safetensors_writer import Progress, Watch, write_files
from rave_mlx.config import LMMConfig
from rave_mlx.errors import ConfigError, ModelError
from rave_mlx.models.finder import config as finder

CONFIG, TOKENIZER, TEMPLATE, CARD = "config.json", "tokenizer.json", "chat_template.jinja", "README.md"
HUB = "hub"
FINDER = finder.FOLDER
BUILT_IN = Path(__file__).parent / "builtin"
"""The rave directory of the built-in model."""
GATE = ".attention.gate."
"""Part of the canonical names of a pair gate's tensors."""
SINK_GATE = ".sink_gate."
"""Part of the canonical names of a sink gate's tensors."""
DECAY = ".attention.decay_log"
"""End of the canonical name of how fast a state of linear attention fades: an exponent, whose rounding adds up."""
EXPERTS = ".mlp.experts."
"""Part of the canonical names of the tensors of experts, whose first axis is the expert."""
ROUTER = ".mlp.router"
"""End of the canonical name of a module that chooses experts."""
_BOUNDS = (".input_min", ".input_max", ".output_min", ".output_max")
_CONSTANTS = (".out_scale", ".feature_offset", ".feature_factor")
INDEX = "model.safetensors.index.json"
OTHER_LAYOUT = "consolidated*"
"""Files that hold the weights once more, in their author's own layout."""
_SHOWN = 10


def is_exact(name: str) -> bool:
    """Whether a tensor of this canonical name stays in float32, whatever type the others have."""
    return is_gate(name) or name.endswith(DECAY)


def is_bound(name: str) -> bool:
    """Whether a tensor of this canonical name is a bound that numbers are clipped to, which may be infinite."""
    return name.endswith(_BOUNDS)


def is_constant(name: str) -> bool:
    """Whether a tensor of this canonical name is never trained: bounds, statistics, and the scales of whole layers."""
    return name.endswith((*_BOUNDS, *_CONSTANTS))


def is_gate(name: str) -> bool:
    """Whether a tensor of this canonical name belongs to a pair gate or a sink gate."""
    return GATE in name or SINK_GATE in name


def is_rave_directory(path: Path) -> bool:
    """Whether `path` holds a rave directory's configuration (and not, say, a foreign checkpoint's)."""
    try:
        return "format" in json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, TypeError):
        return False


def finder_files(path: Path) -> tuple[Path, ...]:
    """The files of a rave directory's finder; none where it has no finder."""
    folder = path / FINDER
    if not folder.is_dir():
        return ()
    optional = (folder / name for name in finder.OPTIONAL)
    return (*(folder / name for name in finder.FILES), *(file for file in optional if file.is_file()))


def read_config(path: Path) -> LMMConfig:
    """The configuration of a rave directory.

    Raises:
        ConfigError: when the file is not JSON or holds something else than an LMMConfig.
    """
    file = path / CONFIG
    return LMMConfig.from_dict(read_json(file), str(file))


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ConfigError: when it is missing, unreadable or not an object.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected a JSON object")
    return data


def read_tensors(path: Path) -> dict[str, mx.array]:
    """All tensors of the directory's safetensors files, lazily: bytes are read when a tensor is evaluated.

    Raises:
        ModelError: when there is no such file, or one is truncated or malformed, or a name occurs twice.
    """
    return dict(open_tensors(path))


def open_tensors(path: Path) -> Tensors:
    """As `read_tensors`, but no tensor stays in memory when its user drops it.

    With an index only the files that it names are opened: some repositories hold the weights a second time, in
    another layout.

    Raises:
        ConfigError, ModelError: when there is no such file, or one is missing, truncated or malformed.
    """
    names = index_names(path)
    missing = [n for n in names if not (path / n).is_file()]
    if missing:
        raise ModelError(
            f"{path}: {len(missing)} of {len(names)} weight files are missing: {_some(missing)}; "
            "download or convert the model again"
        )
    files = [path / n for n in names] or sorted(f for f in path.glob("*.safetensors") if not f.match(OTHER_LAYOUT))
    if not files:
        raise ModelError(
            f"{path}: no *.safetensors file; the model directory is incomplete, download or convert it again"
        )
    return open_files(files)


def index_names(path: Path) -> list[str]:
    """The weight files that the directory's index names; empty without an index.

    Raises:
        ConfigError, ModelError: when the index is none, or names what is no weight file of the directory.
    """
    index = path / INDEX
    if not index.is_file():
        return []
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ModelError(f"{index}: weight_map should map tensors to files; download or convert the model again")
    names = sorted(set(weight_map.values()))
    outside = [n for n in names if n != Path(n).name or not n.endswith(".safetensors") or not n.isprintable()]
    if outside or not names:
        raise ModelError(f"{index}: {(outside or [''])[0][:80]!r} is no *.safetensors file of this directory")
    return names


def check_tensors(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Refuse tensors whose names or shapes are not those of a model.

    Args:
        found: shapes by canonical name.
        expected: the same, of the model.
        where: the tensors' place, for messages.

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
    card: str | Callable[[], str],
    hub: Mapping[str, bytes] | None = None,
    finder_files: Iterable[Path] = (),
    watch: Watch | None = None,
    progress: Progress | None = None,
    finish: Callable[[], None] | None = None,
) -> None:
    """Write a rave directory at `out`, which must not exist.

    Args:
        out: the directory.
        config: its `config.json`.
        tensors: lazy tensors by canonical name. They are evaluated one after the other while they are written, so
            peak memory is what the largest takes.
        tokenizer: file to copy.
        template: the chat template.
        card: text of the model card, or a function that gives it once the tensors are written.
        hub: files for the folder of that name.
        finder_files: to copy into the folder of the finder.
        watch, progress: see `safetensors_writer.write_files`.
        finish: called once everything is written, before the directory gets its name; may refuse it.

    Raises:
        ModelError: when `out` exists or cannot be written, or there is not enough room on the disk.
    """
    with new_directory(out) as part:
        write_files(part, tensors, watch=watch, progress=progress)
        (part / CONFIG).write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(tokenizer, part / TOKENIZER)
        (part / TEMPLATE).write_text(template, encoding="utf-8")
        (part / CARD).write_text(card if isinstance(card, str) else card(), encoding="utf-8")
        for name, content in (hub or {}).items():
            (part / HUB).mkdir(exist_ok=True)
            (part / HUB / name).write_bytes(content)
        for file in finder_files:
            (part / FINDER).mkdir(exist_ok=True)
            shutil.copyfile(file, part / FINDER / file.name)
        if finish is not None:
            finish()


def check_new(out: Path) -> None:
    """Refuse to write where something is.

    Raises:
        ModelError: for a place that exists.
    """
    if out.exists() or out.is_symlink():
        raise ModelError(f"{out}: already exists; choose another place or remove it first")


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A hidden directory beside `out` to fill, renamed to `out` when the block ends well, removed when it does not.

    What killed processes left there is removed first.

    Raises:
        ModelError: when `out` exists, or a file in it cannot be written.
    """
    check_new(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(out.parent)
        stack = ExitStack()
        part = stack.enter_context(partial_directory(out))
    except OSError as error:
        raise ModelError(f"{out}: cannot be created ({error.strerror})") from None
    with stack:
        try:
            yield part
            part.chmod(0o755)
            part.rename(out)
        except OSError as error:
            raise ModelError(f"{out}: cannot be written ({error.strerror or error}); nothing was left behind") from None


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
