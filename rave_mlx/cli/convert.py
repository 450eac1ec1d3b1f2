"""`rave-mlx convert`: a checkpoint in the Hub's layout becomes a rave directory, a foreign adapter one of rave-mlx."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from rave_mlx.cli import options
from rave_mlx.errors import UsageError

_QUANTIZATION = "Quantization"


def convert(
    source: Annotated[
        str, typer.Argument(help="Checkpoint directory, GGUF file, Hub id or rave directory; or an adapter.")
    ],
    out: Annotated[str | None, typer.Argument(help="Directory to create.")] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option("--dtype", help="Type to store weights in. Default: the checkpoint's."),
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Add pair gates that do nothing yet, ready to be trained.")
    ] = False,
    quantize: Annotated[
        int | None,
        typer.Option(
            "--quantize",
            "-q",
            metavar="BITS",
            min=2,
            max=8,
            help="Bits a weight: 2, 3, 4, 5, 6 or 8. Vision tower, connector, norms and gates stay as they are.",
            rich_help_panel=_QUANTIZATION,
        ),
    ] = None,
    mode: Annotated[
        Literal["affine", "mxfp4", "mxfp8", "nvfp4"] | None,
        typer.Option(
            "--mode", help="Number format of quantized weights. Default: affine.", rich_help_panel=_QUANTIZATION
        ),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            "--group-size",
            help="Weights that share a scale: 32, 64 or 128. Default: the mode's own, 64 for affine.",
            rich_help_panel=_QUANTIZATION,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME_OR_FILE",
            help="Mixed widths: mixed_2_6, _3_4, _3_5, _3_6, _3_8, _4_6 or _4_8; or a file of lines 'pattern: bits'.",
            rich_help_panel=_QUANTIZATION,
        ),
    ] = None,
    quantize_vision: Annotated[
        bool,
        typer.Option(
            "--quantize-vision",
            help="Quantize the vision tower and the connector, too.",
            rich_help_panel=_QUANTIZATION,
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Afterwards compare answers with the original's on a few documents, so that bits can be chosen "
            "knowingly: divergence of next-token probabilities, agreement, the worst weights. Runs both models.",
            rich_help_panel=_QUANTIZATION,
        ),
    ] = False,
    check_image: Annotated[
        list[str] | None,
        typer.Option(
            "--check-image",
            metavar="FILE",
            help="A document of your own for --check; repeat for several.",
            rich_help_panel=_QUANTIZATION,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="MODEL",
            help="With an adapter of peft or mlx-lm as SOURCE: the model that it is for. OUT is then an adapter, too.",
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub id.")] = None,
    mmproj: options.Mmproj = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, from headers alone; write nothing.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            "--push",
            metavar="OWNER/NAME",
            help="Upload the result to the Hub, as a public model. With a rave directory as SOURCE and no OUT, upload "
            "that.",
        ),
    ] = None,
) -> None:
    """Convert a checkpoint to a rave directory, or an adapter of peft or mlx-lm to one of rave-mlx.

    [bold]rave-mlx convert Qwen/Qwen2.5-VL-3B-Instruct qwen-3b --quantize 4[/bold]

    [bold]rave-mlx convert peft-adapter my-adapter --base qwen-3b[/bold]
    """
    from rave_mlx import convert as converter
    from rave_mlx.api import load
    from rave_mlx.checkpoint.directory import read_config
    from rave_mlx.config import GateConfig
    from rave_mlx.convert.adapters import is_adapter
    from rave_mlx.convert.open import find
    from rave_mlx.convert.quantize import Options
    from rave_mlx.convert.uploading import check_push
    from rave_mlx.evaluate.quantization import check as compare

    if base is not None or is_adapter(source):
        for_models = (dtype, quantize, mode, group_size, recipe, check_image, push, mmproj)
        changed = gate or quantize_vision or check or dry_run or any(option is not None for option in for_models)
        _convert_adapter(source, out, base, revision, alone=not changed)
        return
    gates = GateConfig() if gate else None
    packing = None
    if quantize is not None or mode is not None or recipe is not None:
        packing = Options(quantize, group_size, mode or "affine", recipe, quantize_vision)
    elif group_size is not None or quantize_vision:
        raise UsageError("--group-size and --quantize-vision go with --quantize, --mode or --recipe")
    if check_image and not check:
        raise UsageError("--check-image goes with --check")
    if check and out is None:
        raise UsageError("--check goes with a conversion: give OUT")
    if dry_run:
        planned = converter.plan(source, dtype=dtype, gate=gates, quantize=packing, revision=revision, mmproj=mmproj)
        print("\n".join(planned.lines()))
        return
    if push is not None:
        check_push(push)
    if out is not None:
        with _bar() as progress:
            path = converter.convert(
                source,
                out,
                dtype=dtype,
                gate=gates,
                quantize=packing,
                revision=revision,
                mmproj=mmproj,
                hashes=push is not None,
                progress=progress,
            )
        print(path)
        if check:
            original = find(source, revision)
            print(compare(load(original, mmproj=mmproj) if mmproj else original, path, check_image or ()).text())
    elif push is None:
        raise UsageError("missing OUT, the directory to create")
    else:
        path = Path(source)
    if push is not None:
        print(converter.push(path, push))
    else:
        shown = " --image page.png" if read_config(path).vision is not None else ""
        print(f"Try it: rave-mlx chat --model {path}{shown}", file=sys.stderr)


def _convert_adapter(source: str, out: str | None, base: str | None, revision: str | None, *, alone: bool) -> None:
    """An adapter of another package becomes one of this."""
    from rave_mlx.convert.adapters import import_adapter, is_adapter

    if not is_adapter(source):
        raise UsageError(f"--base goes with an adapter as SOURCE; {source} has no adapter_config.json, or is a model")
    if base is None:
        raise UsageError(f"{source} is an adapter: name the model that it is for, --base MODEL")
    if out is None:
        raise UsageError("missing OUT, the directory to create")
    if not alone:
        raise UsageError("an adapter is translated as it is: beside it go OUT, --base and --revision (of the base)")
    path = import_adapter(source, base, out, revision=revision)
    print(path)
    print(f"Try it: rave-mlx chat --model {base} --adapter {path}", file=sys.stderr)


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar of bytes, on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("Converting"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
