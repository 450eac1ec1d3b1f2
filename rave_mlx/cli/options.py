"""Options that several commands have, in one wording."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="DIR_OR_HUB_ID",
        envvar="RAVE_MLX_MODEL",
        help="Rave directory, checkpoint directory, GGUF file or Hub id. Without it: the small built-in model.",
    ),
]
Adapter = Annotated[
    str | None,
    typer.Option("--adapter", metavar="DIR", help="Adapter to put on the model: rave-mlx's, peft's or mlx-lm's."),
]
Mmproj = Annotated[
    str | None,
    typer.Option(
        "--mmproj",
        metavar="FILE",
        help="Vision tower of a GGUF model, its second file. Default: the only mmproj-*.gguf beside it.",
    ),
]
ImageTokens = Annotated[
    int | None,
    typer.Option(
        "--image-tokens",
        min=1,
        help="Most visual tokens an image may take; more shows finer print. Default 1,280; 3,840 for models that read "
        "images in tiles.",
    ),
]
KvBits = Annotated[
    int | None,
    typer.Option(
        "--kv-bits",
        metavar="8|4",
        help="Keep keys and values in so many bits a number: less memory for each token, and answers that differ a "
        "little. Default: whole.",
    ),
]
PageCache = Annotated[
    bool,
    typer.Option(
        "--page-cache/--no-page-cache",
        help="Keep on disk what the model has read of a page, and start at once when it is asked about again. "
        "rave-mlx cache shows and clears it; RAVE_MLX_PAGE_CACHE is its limit in MiB, 0 switches it off.",
    ),
]
Page = Annotated[int, typer.Option("--page", min=1, help="Page of the PDF or TIFF file before it, as in FILE#page=2.")]
