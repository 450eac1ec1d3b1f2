"""`rave-mlx export`: a rave directory goes back to the Hub's layout, an adapter to PEFT's."""

from __future__ import annotations

from typing import Annotated

import typer

from rave_mlx.errors import UsageError


def export(
    model: Annotated[str, typer.Argument(help="Rave directory that was converted from a checkpoint.")],
    out: Annotated[str, typer.Argument(help="Directory to create.")],
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", metavar="DIR", help="Export this adapter of MODEL for the peft package instead."),
    ] = None,
    dequantize: Annotated[
        bool, typer.Option("--dequantize", help="Write a quantized model in 16 bits; what quantization lost is lost.")
    ] = False,
) -> None:
    """Write a model for transformers, or an adapter for peft.

    [bold]rave-mlx export my-model my-model-hf[/bold]

    Configuration and tokenizer go back as they came. Pair gates are written too:
    transformers warns of them and goes on without, rave-mlx reads them back.
    """
    if adapter is not None:
        if dequantize:
            raise UsageError("--dequantize goes with a model, not with --adapter")
        from rave_mlx.convert.adapters import export_peft

        print(export_peft(adapter, model, out))
        return
    from rave_mlx.convert.exporting import export as run

    print(run(model, out, dequantize=dequantize))
