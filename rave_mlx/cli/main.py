"""The `rave-mlx` command: results on stdout, everything else on stderr; exit 0, 1 (failed) or 2 (usage).

Commands import what they need when they run, so that `--help` is instant.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from rave_mlx import __version__
from rave_mlx.cli import chat, convert, doctor, evaluate, export, fuse, look, train
from rave_mlx.errors import RaveError

app = typer.Typer(
    name="rave-mlx",
    help="Vision-language models that read documents, with gated visual attention (RAVE), on MLX.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(chat.chat)
app.command()(convert.convert)
app.command()(export.export)
app.command()(fuse.fuse)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(look.look)
app.command()(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rave-mlx {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def run() -> None:
    """Entry point: turns errors into one line on stderr and an exit code."""
    sys.exit(_run())


def _run() -> int:
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except RaveError as error:
        print(f"rave-mlx: {error}", file=sys.stderr)
        return error.exit_code
    except TyperException as error:
        print(f"rave-mlx: {error.format_message()} (rave-mlx --help explains)", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # The reader of stdout is gone (`| head`); keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0
