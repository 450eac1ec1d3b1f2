"""`rave-mlx look`: where a model looks while it answers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rave_mlx.cli import options, split

if TYPE_CHECKING:
    from rave_mlx.models.lmm import LMM

_WHERE = "What is shown"


def look(
    image: Annotated[
        list[str] | None,
        typer.Option("--image", "-i", metavar="FILE...", help="Images and PDFs to look at, `-` for standard input."),
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The question.")] = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    mmproj: options.Mmproj = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="NAME,...",
            help="Attention policies to run and compare, as of --attention in chat: none,rave,rave+var:cosine. "
            "Default: none and rave where the model has gates that do something, else none.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="A-B",
            help="Layers whose mean the pictures show, from 0: 12, 8-15 or 3,8-15. Default: all but the first third.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option("--heads", metavar="A-B", help="Heads to take the mean of. Default: all.", rich_help_panel=_WHERE),
    ] = None,
    page: options.Page = 1,
    image_tokens: options.ImageTokens = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")] = 64,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder to write; it must not exist. Default: NAME-look beside the first image.",
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print answers, masses and peaks of attention as one JSON object instead of paths."
        ),
    ] = False,
    table: Annotated[
        bool,
        typer.Option("--table", help="Print how much attention goes to image, text and sinks, too (as in table.txt)."),
    ] = False,
    heads_table: Annotated[
        bool,
        typer.Option(
            "--heads-table",
            help="Print, for every run, visual sinks, dormant heads, and what gates do to each head: the model's own "
            "output gates, where it has them, and pair gates.",
        ),
    ] = False,
    pointing: Annotated[
        int | None,
        typer.Option(
            "--pointing",
            min=1,
            metavar="N",
            help="Instead of a question of yours: ask N about generated pages, and print how often the peak of "
            "attention lies on the words that the answer quotes.",
        ),
    ] = None,
) -> None:
    """Show where every token of the answer looked: pictures, an HTML page that works offline, a table.

    [bold]rave-mlx look --image receipt.png --prompt "What is the total?"[/bold]
    """
    split.refuse("look")
    from rave_mlx.api import load
    from rave_mlx.errors import UsageError

    if pointing is not None:
        if image or prompt or layers or heads or out or heads_table:
            raise UsageError("--pointing asks questions of its own; beside it go --model, --adapter, --compare, --json")
        _point(pointing, load(model, adapter=adapter, mmproj=mmproj), compare, json)
        return
    if not image or prompt is None:
        raise UsageError("look needs --image FILE and --prompt TEXT")
    from rave_mlx.checkpoint.directory import check_new
    from rave_mlx.cli.image_arguments import open_arguments
    from rave_mlx.look.comparison import compare as compare_runs
    from rave_mlx.look.heads import head_figures, head_table
    from rave_mlx.look.maps import parse_numbers
    from rave_mlx.look.masses import mass_table
    from rave_mlx.look.output import as_json, write_folder

    images = open_arguments(image, page)
    folder = out or images[0].folder_beside
    check_new(folder)
    chosen = parse_numbers(layers, "--layers") if layers else None
    of_heads = parse_numbers(heads, "--heads") if heads else None
    lmm = load(model, adapter=adapter, mmproj=mmproj)
    parts = [{"type": "image", "image": each.source, "page": each.page} for each in images]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]
    runs = compare_runs(lmm, messages, _policies(compare, lmm), max_tokens=max_tokens, image_tokens=image_tokens)
    tables = [
        (run, head_table(head_figures(lmm, messages, policy=run.attention, image_tokens=image_tokens)))
        for run in runs
        if heads_table
    ]
    written = write_folder(runs, folder, layers=chosen, heads=of_heads)
    for run in runs:
        print(f"{run.attention}: {run.answer}", file=sys.stderr)
    _say_what_chat_answers(lmm, messages, [run.answer for run in runs], max_tokens, image_tokens)
    if json:
        print(as_json(runs, written, layers=chosen, heads=of_heads))
        return
    print("\n".join(map(str, written)))
    if table:
        print("\n" + "\n\n".join(map(mass_table, runs)))
    print("".join(f"\nheads, attention {run.attention}\n{table}\n" for run, table in tables), end="")


def _say_what_chat_answers(
    lmm: LMM, messages: Sequence[Mapping[str, Any]], shown: Sequence[str], max_tokens: int, image_tokens: int | None
) -> None:
    """Say so where chat reads the page in more ways than one by default, and comes to another answer than is shown."""
    if lmm.config.attention is None:
        return
    from rave_mlx.api import generate

    answer = generate(lmm, messages, max_tokens=max_tokens, image_tokens=image_tokens)
    if answer not in shown:
        print(
            f"chat answers {answer!r}: with {lmm.config.attention} it reads parts of the page, or other sizes of it, "
            "as well; shown is one reading of the whole page",
            file=sys.stderr,
        )


def _policies(compare: str | None, lmm: LMM) -> list[str | None]:
    """The policies to run: those that were named, else with and without the gates where there are any."""
    from rave_mlx.look.comparison import split_policies

    if compare is not None:
        return list(split_policies(compare))
    return ["none", "rave"] if lmm.make_cache().gated else ["none"]


def _point(count: int, lmm: LMM, compare: str | None, json: bool) -> None:
    """Ask generated questions with each policy, and print how often attention points at the answer."""
    import json as json_module
    from dataclasses import asdict

    from rave_mlx.look.pointing import score, table, targets

    questions = list(targets(count))
    reports = []
    for policy in _policies(compare, lmm):

        def follow(done: int, name: str | None = policy) -> None:
            print(f"\r{name}: {done} of {len(questions)} questions", end="", file=sys.stderr, flush=True)

        reports.append(score(lmm, questions, policy=policy, progress=follow if sys.stderr.isatty() else None))
        if sys.stderr.isatty():
            print(file=sys.stderr)
    print(json_module.dumps([asdict(report) for report in reports]) if json else table(reports))
