"""`rave-mlx chat`: ask a model about documents, once or in a conversation."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rave_mlx.cli import options

_READING, _SAMPLING = "Reading", "Sampling"


def chat(
    image: Annotated[
        list[str] | None,
        typer.Option("--image", "-i", metavar="FILE...", help="Images and PDFs to read, `-` for standard input."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", help="Ask this, print the answer and exit. Without it: a conversation."),
    ] = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    mmproj: options.Mmproj = None,
    system: Annotated[str | None, typer.Option("--system", help="System message that starts the conversation.")] = None,
    page: options.Page = 1,
    image_tokens: options.ImageTokens = None,
    kv_bits: options.KvBits = None,
    page_cache: options.PageCache = True,
    attention: Annotated[
        str | None,
        typer.Option(
            "--attention",
            metavar="NAME[:PRESET][:KEY=VALUE,...]",
            help="Where the model looks. rave: use its gates; none: leave them out. Or a policy: var, mma, gift, "
            "act, vhr, paint, pai, adapt, aif, ee-mllm, iri, dyvte, debias, visiondrop, vflowopt, rtprune, carve, "
            "funnel, panes, views, words, guidance; with presets and settings as in var:released,rho=0.4, and gates "
            "as in rave+var:cosine. Default: what the model's config names (rave+views+words for the built-in), else "
            "rave where there are gates. A model trained with the mutual mask (AKI) always uses it.",
            rich_help_panel=_READING,
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.", rich_help_panel=_SAMPLING)
    ] = 256,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature",
            "-t",
            help="0: the most likely token; higher: drawn more freely.",
            rich_help_panel=_SAMPLING,
        ),
    ] = 0.0,
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p",
            help="Draw from the likeliest tokens that together have this probability; 1: all.",
            rich_help_panel=_SAMPLING,
        ),
    ] = 1.0,
    top_k: Annotated[
        int,
        typer.Option("--top-k", help="Draw from this many of the likeliest tokens; 0: all.", rich_help_panel=_SAMPLING),
    ] = 0,
    min_p: Annotated[
        float,
        typer.Option(
            "--min-p",
            help="Draw from tokens with at least this share of the likeliest one's probability; 0: all.",
            rich_help_panel=_SAMPLING,
        ),
    ] = 0.0,
    repetition_penalty: Annotated[
        float,
        typer.Option(
            "--repetition-penalty", help="Above 1 makes tokens that came before less likely.", rich_help_panel=_SAMPLING
        ),
    ] = 1.0,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of drawing: same seed, same answer.", rich_help_panel=_SAMPLING)
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object an answer: text, finish, certainty, token counts, times.")
    ] = False,
) -> None:
    """Ask about documents: the answer streams to stdout.

    [bold]rave-mlx chat --image receipt.png --prompt "What is the total?"[/bold]

    Without --prompt a conversation starts (type /help in it); questions may also
    come from a pipe, one a line.
    """
    from rave_mlx.chat.session import Session
    from rave_mlx.cli import split
    from rave_mlx.cli.image_arguments import open_arguments
    from rave_mlx.cli.repl import Repl
    from rave_mlx.errors import UsageError
    from rave_mlx.generation.page_store import PageStore
    from rave_mlx.generation.sampling import Sampling
    from rave_mlx.policies.parse import steering

    processes = split.begin()
    sampling = Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    policy = None if attention is None else steering(attention)
    images = open_arguments(image or [], page)
    if prompt is None and any(each.is_stdin for each in images):
        raise UsageError("--image - reads standard input, where questions come from without --prompt; give --prompt")
    lmm = split.load(processes, model, adapter=adapter, mmproj=mmproj, kv_bits=kv_bits)
    session = Session(
        lmm,
        policy=policy,
        max_tokens=max_tokens,
        image_tokens=image_tokens,
        sampling=sampling,
        system=system,
        pages=PageStore.open(lmm) if page_cache and processes is None else None,
    )
    repl = Repl(session, built_in=model is None, json=json)
    for each in images:
        repl.attach(each)
    if prompt is not None:
        if not repl.ask(prompt):
            raise typer.Exit(130)
    elif sys.stdin.isatty():
        repl.converse()
    else:
        repl.follow(sys.stdin)
