"""`rave-mlx cache`: what is kept on disk of pages that were read, and how to be rid of it."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all of it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as one JSON object.")] = False,
) -> None:
    """Say where pages that were read are kept, how much that takes, and clear it.

    [bold]rave-mlx cache --clear[/bold]

    What a model has read of a page is kept so that the next question about it
    starts at once: numbers from which the page could be guessed, readable by this
    user alone. RAVE_MLX_PAGE_CACHE sets the limit in MiB (0: nothing is kept);
    XDG_CACHE_HOME moves the folder. What was not used for the longest goes first.
    """
    from rave_mlx.generation.page_folder import PageFolder

    folder = PageFolder()
    freed = folder.clear() if clear else 0
    entries = folder.entries()
    size = sum(each for _, each, _ in entries)
    if as_json:
        found = {
            "folder": str(folder.folder),
            "entries": len(entries),
            "bytes": size,
            "limit_bytes": folder.most,
            "freed_bytes": freed,
        }
        print(json.dumps(found, ensure_ascii=False))
        return
    print(f"folder   {folder.folder}")
    if clear:
        print(f"freed    {freed / 1e6:,.1f} MB")
    print(f"entries  {len(entries):,}{_since(entries[0][2]) if entries else ''}")
    limit = f"{folder.most / 1e6:,.0f} MB at most" if folder.most else "switched off"
    print(f"size     {size / 1e6:,.1f} MB, {limit}")


def _since(used: float) -> str:
    """When the entry was used that nobody used for the longest."""
    return f", the oldest used {time.strftime('%Y-%m-%d %H:%M', time.localtime(used))}"
