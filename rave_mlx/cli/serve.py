"""`rave-mlx serve`: an OpenAI-compatible server, and a page that shows where the model looked."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from rave_mlx.cli import options, split

_PACKAGES = ("fastapi", "uvicorn", "multipart", "prometheus_client")
_WHO, _LIMITS, _MEMORY = "Who may ask", "Limits of a request", "Memory"


def serve(
    model: options.Model = None,
    mmproj: options.Mmproj = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            metavar="NAME=DIR",
            help="Adapter that clients ask for as MODEL:NAME; loaded when it is first asked for. May be given again.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What clients call the model. Default: its folder's name or Hub id.")
    ] = None,
    port: Annotated[int, typer.Option("--port", metavar="N", help="0: any that is free; it is printed.")] = 8080,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Where to listen. 127.0.0.1: this machine only; 0.0.0.0: everybody, which needs --api-key.",
            rich_help_panel=_WHO,
        ),
    ] = "127.0.0.1",
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            envvar="RAVE_MLX_API_KEY",
            help="What clients have to send (Authorization: Bearer KEY). Better in the variable than on the command "
            "line, which other users of the machine can see.",
            rich_help_panel=_WHO,
        ),
    ] = None,
    remote_images: Annotated[
        bool,
        typer.Option(
            "--allow-remote-images",
            help="Fetch images that a request names by http(s) address; never from this machine or its network.",
            rich_help_panel=_WHO,
        ),
    ] = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, metavar="N", help="Answers that are written together.")
    ] = 8,
    max_tokens: Annotated[
        int,
        typer.Option(
            "--max-tokens", min=1, help="Longest answer; requests for more get this.", rich_help_panel=_LIMITS
        ),
    ] = 4096,
    max_body: Annotated[
        int, typer.Option("--max-body", min=1, metavar="MIB", help="Of a request.", rich_help_panel=_LIMITS)
    ] = 64,
    max_images: Annotated[
        int, typer.Option("--max-images", min=1, help="In one request.", rich_help_panel=_LIMITS)
    ] = 32,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, metavar="MEGA", help="Of a picture.", rich_help_panel=_LIMITS)
    ] = 64,
    max_pages: Annotated[int, typer.Option("--max-pages", min=1, help="Of a document.", rich_help_panel=_LIMITS)] = 200,
    queue: Annotated[
        int,
        typer.Option(
            "--queue", min=1, help="Requests that may wait; others are told to come back.", rich_help_panel=_LIMITS
        ),
    ] = 64,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, metavar="SECONDS", help="Of a request.", rich_help_panel=_LIMITS)
    ] = 600,
    kv_bits: options.KvBits = None,
    adapter_memory: Annotated[
        int,
        typer.Option(
            "--adapter-memory", min=1, metavar="MIB", help="For all adapters together.", rich_help_panel=_MEMORY
        ),
    ] = 2048,
    cache_memory: Annotated[
        int | None,
        typer.Option(
            "--cache-memory",
            min=0,
            metavar="MIB",
            help="For recent prompts, and as much for images. Default: a sixteenth of the memory, 1024 at most.",
            rich_help_panel=_MEMORY,
        ),
    ] = None,
) -> None:
    """Serve a model: OpenAI's interface, reading and extracting, and a page in the browser.

    [bold]rave-mlx serve[/bold], then open http://127.0.0.1:8080

    OpenAI's clients find the model at http://127.0.0.1:8080/v1: chat/completions
    with images, streams, JSON Schema, log-probabilities. Further: /v1/look,
    /v1/read, /v1/extract, /health, /metrics. Nothing that clients send is kept.
    """
    from rave_mlx.errors import RaveError, UsageError
    from rave_mlx.serve.open_models import check_adapters, model_name, parse_adapters
    from rave_mlx.serve.settings import Limits, ServeSettings

    processes = split.begin()
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RaveError(f"serve needs {' and '.join(missing)}; run: pip install 'rave-mlx[serve]'")
    if name is not None and (not name.strip() or ":" in name or not name.isprintable()):
        raise UsageError(f"--name {name!r}: a name is text without a colon")

    limits = Limits(
        body_bytes=max_body << 20,
        images=max_images,
        pixels=max_pixels * 1_000_000,
        max_tokens=max_tokens,
        pages=max_pages,
        queue=queue,
        seconds=timeout,
    )
    settings = ServeSettings(
        host=host,
        port=port,
        api_key=api_key,
        adapters=parse_adapters(adapter or []),
        adapter_bytes=adapter_memory << 20,
        rows=batch_size,
        prefix_bytes=None if cache_memory is None else cache_memory << 20,
        remote_images=remote_images,
        limits=limits,
    )
    check_adapters(settings.adapters)
    if processes is not None and settings.adapters:
        raise UsageError(split.NO_ADAPTER)

    from rave_mlx.serve.run import bind, serve_at
    from rave_mlx.serve.shelf import Shelf

    bound = bind(settings)  # before a model is loaded, which may take long
    lmm = split.load(processes, model, mmproj=mmproj, kv_bits=kv_bits)
    shelf = Shelf(
        model_name(name, model),
        lmm,
        adapters=settings.adapters,
        adapter_bytes=settings.adapter_bytes,
        rows=settings.rows,
        prefix_bytes=settings.prefix_bytes,
    )
    serve_at(bound, shelf, settings)
