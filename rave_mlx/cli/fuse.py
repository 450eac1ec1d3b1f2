"""`rave-mlx fuse`: an adapter becomes part of its base."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rave_mlx.cli import options


def fuse(
    out: Annotated[str, typer.Argument(help="Directory to create.")],
    adapter: Annotated[
        str, typer.Option("--adapter", metavar="DIR", help="The adapter: of `train`, of peft or of mlx-lm.")
    ],
    model: options.Model = None,
    dequantize: Annotated[
        bool,
        typer.Option(
            "--dequantize",
            help="Leave the changed matrices of a quantized base in 16 bits, so that nothing learned is rounded away.",
        ),
    ] = False,
) -> None:
    """Build an adapter into its base model.

    [bold]rave-mlx fuse --model qwen-3b --adapter my-adapter qwen-3b-mine[/bold]

    The result is a rave directory that needs no --adapter; pair gates of the
    adapter are kept.
    """
    from rave_mlx.convert.fusing import fuse as run

    path = run(model, adapter, out, dequantize=dequantize)
    print(path)
    print(f"Try it: rave-mlx chat --model {path}", file=sys.stderr)
