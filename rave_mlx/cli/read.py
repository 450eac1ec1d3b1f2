"""`rave-mlx read`: the text of documents as Markdown, plain text or JSON."""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rave_mlx.cli import document_options, options, split

if TYPE_CHECKING:
    from rave_mlx.documents.pages import Document
    from rave_mlx.documents.progress import Report
    from rave_mlx.documents.sources import Pile
    from rave_mlx.documents.transcription.page_reader import PageReader
    from rave_mlx.documents.transcription.reading import PageReading


class Format(enum.StrEnum):
    """What is written."""

    MARKDOWN = "markdown"
    TEXT = "text"
    JSON = "json"


def read(
    files: document_options.Files,
    pages: document_options.Pages = None,
    written: Annotated[
        Format,
        typer.Option(
            "--format",
            help="markdown: headings, lists, tables. text: without marks, form feeds between pages. json: one object a "
            "document with its blocks, their boxes and how certain they are.",
        ),
    ] = Format.MARKDOWN,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for one file a document, in folders as the documents', and read.jsonl, which says of each how "
            "it went. Without it the text goes to standard output as pages are done.",
        ),
    ] = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    mmproj: options.Mmproj = None,
    image_tokens: options.ImageTokens = None,
    kv_bits: options.KvBits = None,
    page_cache: options.PageCache = False,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, help="Longest answer about a page. Default: what is known of the model."),
    ] = None,
    bbox: Annotated[
        bool, typer.Option("--bbox", help="With --format json: ask the model where things stand, if it can say so.")
    ] = False,
    batch_size: document_options.BatchSize = 8,
    shared: document_options.Split = None,
    resume: document_options.Resume = False,
    allow_errors: document_options.AllowErrors = False,
    quiet: document_options.Quiet = False,
) -> None:
    """Read documents: every page of PDFs and TIFFs, pictures, whole folders, as text.

    [bold]rave-mlx read scans/ --out text/[/bold]

    Each model is asked in the way it was trained for. Where an answer repeats
    itself, the page is asked again, and again in parts; what is still missing is
    said. Exit code 1 where a document could not be read, or not all of it.
    """
    from rave_mlx.checkpoint.fingerprint import adapter_fingerprint, fingerprint
    from rave_mlx.documents.transcription.page_questions import ReadOptions
    from rave_mlx.documents.transcription.page_reader import PageReader
    from rave_mlx.errors import UsageError
    from rave_mlx.generation.page_store import PageStore

    processes = split.begin_documents(shared, model)
    if bbox and written is not Format.JSON:
        raise UsageError("--bbox: boxes are written with --format json; add it, or leave --bbox out")
    if resume and out is None:
        raise UsageError("--resume goes on with a folder; name it with --out")
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; name a folder for one file a document")
    pile = document_options.find(files, pages, None, quiet=quiet, skip=[] if out is None else [out])
    lmm = split.load(processes, model, adapter=adapter, mmproj=mmproj, kv_bits=kv_bits)
    reading = ReadOptions(boxes=bbox, image_tokens=image_tokens, max_tokens=max_tokens)
    pages_kept = PageStore.open(lmm) if page_cache and processes is None else None
    reader = PageReader(lmm, reading, batch_size=batch_size, pages=pages_kept)
    prompt = reader.asker.prompt
    if bbox and not prompt.writes_boxes:
        raise UsageError(f"--bbox: {prompt.name} has no known way to write boxes of a whole page; leave it out")
    if not quiet and not prompt.source.verified:
        print(f"how {prompt.name} is asked: {prompt.source.note}", file=sys.stderr)
    if out is None:
        _finish(_to_stdout(pile, reader, written, quiet), allow_errors, quiet)
        return
    settings = {
        "command": "read",
        "model": fingerprint(lmm),
        "adapter": adapter_fingerprint(adapter),
        "format": written.value,
        "pages": pages,
        "image_tokens": image_tokens,
        "max_tokens": max_tokens,
        "bbox": bbox,
        "prompt": prompt.to_dict(),
    }
    _to_folder(
        pile, reader, files, written, out, settings,
        resume=resume, allow_errors=allow_errors, quiet=quiet, alone=processes is not None,
    )  # fmt: skip


def _to_folder(
    pile: Pile,
    reader: PageReader,
    files: list[str],
    written: Format,
    out: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool,
    allow_errors: bool,
    quiet: bool,
    alone: bool,
) -> None:
    """One file a document."""
    from rave_mlx.documents.transcription.result_files import EMPTY, INDEX, ResultFiles, places
    from rave_mlx.errors import RaveError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RaveError(f"--out {out}: cannot be created ({error.strerror}); choose another place") from None
    results = ResultFiles(out, places(pile.documents, files, written.value), written.value)
    document_options.go(
        "read",
        pile,
        results.process(reader.process),
        out=out / INDEX,
        settings=settings,
        empty=EMPTY,
        resume=resume,
        allow_errors=allow_errors,
        quiet=quiet,
        alone=alone,
    )


def _to_stdout(pile: Pile, reader: PageReader, written: Format, quiet: bool) -> Report:
    """Pages as they are done; documents as JSON lines."""
    from rave_mlx.documents.progress import Progress, Report
    from rave_mlx.documents.stream import process_documents
    from rave_mlx.documents.transcription.reading import DocumentReading

    several = len(pile.documents) > 1
    if written is not Format.JSON:
        reader.listener = _Printer(written, several)
    failures: dict[str, int] = {}
    with Progress("read", len(pile.documents), quiet=quiet, bar=not sys.stdout.isatty()) as progress:
        for done in process_documents(pile.documents, reader.process, empty={}, watch=progress.page):
            result = done.outcome.result or DocumentReading(done.name, done.sha256, error=done.outcome.error)
            if written is Format.JSON:
                print(result.as_json(), flush=True)
            progress.row(done.row())
            if done.outcome.error is not None:
                failures[done.outcome.error] = failures.get(done.outcome.error, 0) + 1
    return Report(len(pile.documents), 0, progress.pages, failures, progress.seconds)


class _Printer:
    """Prints pages, with what parts them from those before."""

    def __init__(self, written: Format, several: bool):
        self._written, self._several = written, several
        self._document: Document | None = None

    def __call__(self, document: Document, page: PageReading) -> None:
        from rave_mlx.documents.transcription.reading import PAGE_BREAK

        begins, first = document is not self._document, self._document is None
        self._document = document
        markdown = self._written is Format.MARKDOWN
        if begins and self._several:
            print(
                "" if first else "\n",
                f"<!-- {document.name} -->\n" if markdown else f"==> {document.name} <==\n",
                sep="",
            )
        if len(document.pages) > 1 and markdown:
            print("" if begins else "\n", PAGE_BREAK.format(page.page), "\n", sep="")
        elif not begins:
            print("\f", end="")
        print(page.markdown if markdown else page.text, flush=True)


def _finish(report: Report, allow_errors: bool, quiet: bool) -> None:
    """Say what was done; exit code 1 where a document failed."""
    if not quiet:
        print(report, file=sys.stderr)
    if code := report.exit_code(allow_errors=allow_errors):
        raise typer.Exit(code)
