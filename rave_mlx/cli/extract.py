"""`rave-mlx extract`: fields out of documents, as a schema describes them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rave_mlx.cli import document_options, options, split

_HOW = "How it reads"


def extract(
    files: document_options.Files,
    schema: Annotated[
        Path | None,
        typer.Option("--schema", metavar="SCHEMA.json", help="JSON Schema of what is asked for: names, types, lists."),
    ] = None,
    fields: Annotated[
        str | None,
        typer.Option("--fields", metavar='"total, due date"', help="Names of fields, in place of a schema; all text."),
    ] = None,
    out: document_options.Out = None,
    resume: document_options.Resume = False,
    review: Annotated[
        Path | None,
        typer.Option(
            "--review",
            metavar="FILE.html",
            help="Write a page to look at afterwards, offline: fields below --threshold and those that were "
            "not found, with their place on the page and room for a correction.",
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option("--threshold", min=0, max=1, help="Certainty below which a field is on the review page."),
    ] = 0.9,
    pages: document_options.Pages = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    mmproj: options.Mmproj = None,
    attention: Annotated[
        str | None,
        typer.Option(
            "--attention",
            metavar="NAME[:PRESET][:KEY=VALUE,...]",
            help="Attention policy, as of chat. Default: what the model's config names; rave for the built-in model.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    image_tokens: options.ImageTokens = None,
    kv_bits: options.KvBits = None,
    page_cache: options.PageCache = False,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.", rich_help_panel=_HOW)
    ] = 4096,
    batch_size: document_options.BatchSize = 8,
    shared: document_options.Split = None,
    boxes: Annotated[
        bool,
        typer.Option("--boxes/--no-boxes", help="Whether the place of each value is looked for.", rich_help_panel=_HOW),
    ] = True,
    allow_errors: document_options.AllowErrors = False,
    quiet: document_options.Quiet = False,
) -> None:
    """Extract fields from PDFs, scans and pictures: each with its certainty, page and box.

    [bold]rave-mlx extract invoices --schema invoice.json --out invoices.csv --review check.html[/bold]

    One row a document, in the order of the input. A box is left, top, right,
    bottom from the top left corner of the page: in points for a PDF, in pixels
    for a picture ("unit"). What is not there is null. Exit code 1 where a
    document failed; its row says why.
    """
    from rave_mlx.documents.extraction.extract import EMPTY, Extractor
    from rave_mlx.documents.extraction.plan import Options
    from rave_mlx.documents.extraction.schema import ExtractionSchema
    from rave_mlx.errors import UsageError

    processes = split.begin_documents(shared, model)
    if (schema is None) == (fields is None):
        raise UsageError('extract needs either --schema SCHEMA.json or --fields "total, due date"')
    asked = ExtractionSchema.of_names(fields) if fields is not None else ExtractionSchema.of(schema)
    if review is not None:
        from rave_mlx.documents.extraction.review import check_review

        check_review(review, out)
    skip = [path for path in (schema, review) if path is not None]
    pile = document_options.find(files, pages, out, quiet=quiet, skip=skip)

    from rave_mlx.checkpoint.fingerprint import adapter_fingerprint, fingerprint
    from rave_mlx.generation.page_store import PageStore

    lmm = split.load(processes, model, adapter=adapter, mmproj=mmproj, kv_bits=kv_bits)
    chosen = Options(attention, image_tokens, max_tokens, boxes=boxes)
    store = PageStore.open(lmm) if page_cache and processes is None else None
    extractor = Extractor(lmm, asked, options=chosen, batch_size=batch_size, pages=store)
    settings = {
        "command": "extract", "schema": asked.schema, "model": fingerprint(lmm),
        "adapter": adapter_fingerprint(adapter),
        "attention": attention, "image_tokens": image_tokens, "max_tokens": max_tokens, "pages": pages, "boxes": boxes,
    }  # fmt: skip
    failed: typer.Exit | None = None
    try:
        document_options.go(
            "extract", pile, extractor.process, out=out, settings=settings, empty=EMPTY, resume=resume,
            allow_errors=allow_errors, quiet=quiet, alone=processes is not None,
        )  # fmt: skip
    except typer.Exit as ended:
        failed = ended
    if review is not None and out is not None:
        from rave_mlx.documents.extraction.review import write_review
        from rave_mlx.documents.run import rows_path

        count = write_review(rows_path(out), pile.documents, asked, review, threshold=threshold)
        if not quiet:
            print(f"{review}: {count} to look at", file=sys.stderr)
    if failed is not None:
        raise failed
