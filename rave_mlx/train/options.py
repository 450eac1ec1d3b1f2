"""What a run was told on the command line, kept in its directory so that `--resume` needs none of it again.

    OUT/options.json    {"format": 1, "options": {"data": ..., "model": ..., "lr": ..., ...}}

The names are those of the command line. Local paths are kept whole, so that a run goes on from any folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rave_mlx.checkpoint import directory
from rave_mlx.errors import ConfigError, ModelError, UsageError

FILE = "options.json"
_FORMAT = 1


def write_options(out: Path, options: Mapping[str, Any]) -> None:
    """Keep a run's options in its directory.

    Raises:
        ModelError: when they cannot be written.
    """
    part = out / f".{FILE}.part"
    try:
        part.write_text(json.dumps({"format": _FORMAT, "options": dict(options)}, indent=2) + "\n", encoding="utf-8")
        part.replace(out / FILE)
    except OSError as error:
        raise ModelError(f"{out / FILE}: cannot be written ({error.strerror})") from None


def read_options(out: Path) -> dict[str, Any] | None:
    """A run's options; None when none were kept.

    Raises:
        ConfigError: when the file holds something else.
    """
    file = out / FILE
    if not file.is_file():
        return None
    found = directory.read_json(file)
    if found.get("format") != _FORMAT or not isinstance(found.get("options"), dict):
        raise ConfigError(f"{file}: not the options of a run; give --data, --model and the others again")
    return dict(found["options"])


def merge_options(
    recorded: Mapping[str, Any], given: Mapping[str, Any], changeable: frozenset[str], out: Path
) -> dict[str, Any]:
    """The options of a resumed run: the recorded ones, with those given again that may change.

    Args:
        recorded: the run's own, all of them.
        given: those on the command line now.
        changeable: names of those that may be another now.
        out: the run's directory, for messages.

    Raises:
        ConfigError: for a recorded option that this version does not know.
        UsageError: for a given option that differs and may not, by name.
    """
    for name, value in given.items():
        if name not in changeable and name in recorded and recorded[name] != value:
            flag = "--" + name.replace("_", "-")
            began = "the default" if recorded[name] is None else json.dumps(recorded[name])
            raise UsageError(
                f"{flag} {json.dumps(value)}: the run in {out} began with {began}; leave {flag} out to go on with "
                "that, or start anew in another --out"
            )
    return {**recorded, **given}
