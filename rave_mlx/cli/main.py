"""The `rave-mlx` command: results on stdout, everything else on stderr; exit 0, 1 (failed) or 2 (usage).

Commands import what they need when they run, so that `--help` is instant. The docstring of a command is its help; its
parameters are described where its options are declared.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer
from typer.exceptions import TyperException

from rave_mlx.cli import (
    build_kernels,
    cache,
    chat,
    convert,
    doctor,
    evaluate,
    export,
    extract,
    fuse,
    look,
    read,
    serve,
    train,
)
from rave_mlx.cli.aliases import translate
from rave_mlx.cli.image_arguments import ImagesCommand
from rave_mlx.errors import RaveError

__all__ = ["app", "main", "run"]

app = typer.Typer(
    name="rave-mlx",
    help="Vision-language models that read documents, with gated visual attention (RAVE), on MLX.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=ImagesCommand)(chat.chat)
app.command()(read.read)
app.command()(extract.extract)
app.command()(convert.convert)
app.command()(export.export)
app.command()(fuse.fuse)
app.command()(train.train)
app.add_typer(evaluate.app, name="evaluate")
app.command(cls=ImagesCommand)(look.look)
app.command()(serve.serve)
app.command()(cache.cache)
app.command()(doctor.doctor)
app.command()(build_kernels.build_kernels)


def _show_version(wanted: bool) -> None:
    """Print the version and exit, where that is wanted."""
    if wanted:
        typer.echo(f"rave-mlx {metadata.version('rave-mlx')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str]) -> int:
    """Run a command; errors become one line on stderr and the exit code.

    Args:
        arguments: of the command line, without the program's name.
    """
    _never_lose_text()
    try:
        if not arguments:
            app(["--help"], standalone_mode=False)
            print("rave-mlx: give a command, for example: rave-mlx chat --image page.png", file=sys.stderr)
            return 2
        code = app(translate(arguments), prog_name="rave-mlx", standalone_mode=False)
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


def run() -> None:
    """Run the command line of this process and leave with its exit code."""
    sys.exit(main(sys.argv[1:]))


def _never_lose_text() -> None:
    """Escape what stdout's encoding does not have, and read stdin strictly: no character is dropped or made up."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper) and not sys.stdin.isatty():
        sys.stdin.reconfigure(errors="strict")
