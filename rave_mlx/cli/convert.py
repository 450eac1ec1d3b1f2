"""`rave-mlx convert`: a checkpoint in the Hub's layout becomes a rave directory."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer


def convert(
    source: Annotated[str, typer.Argument(help="Checkpoint directory or Hub id.")],
    out: Annotated[str, typer.Argument(help="Directory to create.")],
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option("--dtype", help="Type to store weights in. Default: the checkpoint's."),
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Add pair gates that do nothing yet, ready to be trained.")
    ] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub id.")] = None,
) -> None:
    """Convert a checkpoint to a rave directory.

    [bold]rave-mlx convert Qwen/Qwen2.5-VL-3B-Instruct qwen-3b[/bold]
    """
    from rave_mlx.config import GateConfig
    from rave_mlx.convert import convert as run

    path = run(source, out, dtype=dtype, gate=GateConfig() if gate else None, revision=revision)
    print(path)
    print(f"Try it: rave-mlx chat --model {path} --image page.png", file=sys.stderr)
