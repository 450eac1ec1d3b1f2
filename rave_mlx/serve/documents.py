"""`POST /v1/read`, `/v1/extract` and `/v1/pages`: files of a form, answered as the commands of that name do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rave_mlx.documents.extraction.extract import EMPTY, Extractor
from rave_mlx.documents.extraction.plan import Options
from rave_mlx.documents.extraction.schema import ExtractionSchema
from rave_mlx.documents.pages import Document, open_document
from rave_mlx.documents.pages_spec import PageRanges, parse_pages
from rave_mlx.documents.sources import Source
from rave_mlx.documents.stream import Done, Process, process_documents
from rave_mlx.documents.transcription.page_questions import ReadOptions
from rave_mlx.documents.transcription.page_reader import PageReader
from rave_mlx.documents.transcription.reading import DocumentReading
from rave_mlx.errors import ImageError
from rave_mlx.models.lmm import LMM
from rave_mlx.serve.body import Upload, read_form
from rave_mlx.serve.chat_jobs import policy_of
from rave_mlx.serve.client_messages import check_pixels
from rave_mlx.serve.context import Context
from rave_mlx.serve.errors import ApiError
from rave_mlx.serve.form_fields import Form
from rave_mlx.serve.json_text import JsonResponse
from rave_mlx.serve.pictures import LONGEST_SIDE, data_url, fitted
from rave_mlx.serve.settings import Limits

Check = Callable[[], None]
_LARGEST_DRAWN = LONGEST_SIDE**2


async def read(context: Context, request: Request) -> Response:
    """The text of documents: headings, paragraphs and tables of every page.

    Raises:
        ApiError: for what cannot be asked; what is wrong with a file is in its row.
        ClientGoneError: when the client goes.
    """
    uploads, fields = await read_form(request, context.settings.limits)
    form, limits = Form(fields), context.settings.limits
    model = context.shelf.check(form.text("model"))
    written = form.choice("format", ("markdown", "text", "json")) or "markdown"
    options = ReadOptions(
        boxes=form.flag("bbox") or False,
        image_tokens=form.number("image_tokens", limits.image_tokens),
        max_tokens=form.number("max_tokens", limits.max_tokens),
    )
    pages = _pages(form)
    form.close()

    def rows(lmm: LMM, check: Check) -> list[dict[str, Any]]:
        reader = PageReader(lmm, options, batch_size=context.settings.rows)
        if options.boxes and not reader.asker.prompt.writes_boxes:
            raise ApiError(
                400, "bbox: this model has no known way to write boxes of a page; leave it out", param="bbox"
            )
        sources = _sources(uploads, pages, limits, check)
        return [_reading_row(done, written) for done in _processed(sources, reader.process, {}, check)]

    return await _answer(context, request, model, rows)


async def extract(context: Context, request: Request) -> Response:
    """Fields of documents as a schema describes them, each with its certainty and place.

    Raises:
        ApiError: for what cannot be asked; what is wrong with a file is in its row.
        ClientGoneError: when the client goes.
    """
    uploads, fields = await read_form(request, context.settings.limits)
    form, limits = Form(fields), context.settings.limits
    model = context.shelf.check(form.text("model"))
    schema, names = form.json("schema"), form.text("fields")
    if (schema is None) == (names is None):
        raise ApiError(400, 'extract needs either schema (JSON Schema) or fields ("total, due date")', param="schema")
    if schema is not None and not isinstance(schema, dict):
        raise ApiError(400, 'schema: a schema is a JSON object, as {"type": "object", "properties": {...}}')
    asked = ExtractionSchema.of_names(names) if names is not None else ExtractionSchema.of(schema)
    options = Options(
        policy_of(form.text("attention")),
        form.number("image_tokens", limits.image_tokens),
        form.number("max_tokens", limits.max_tokens) or limits.max_tokens,
        boxes=form.flag("boxes") is not False,
    )
    pages = _pages(form)
    form.close()

    def rows(lmm: LMM, check: Check) -> list[dict[str, Any]]:
        extractor = Extractor(lmm, asked, options=options, batch_size=context.settings.rows)
        sources = _sources(uploads, pages, limits, check)
        return [done.row() for done in _processed(sources, extractor.process, EMPTY, check)]

    return await _answer(context, request, model, rows)


async def draw_pages(context: Context, request: Request) -> Response:
    """The pages of a file as pictures for a browser.

    Raises:
        ApiError: for a file that cannot be opened, or that has too many pages.
        ClientGoneError: when the client goes.
    """
    uploads, fields = await read_form(request, context.settings.limits)
    form, limits = Form(fields), context.settings.limits
    pages = _pages(form)
    form.close()
    if len(uploads) > 1:
        raise ApiError(400, "send one file at a time", param="file")

    def work(check: Check) -> dict[str, Any]:
        check_pixels(uploads[0].data, limits)
        try:
            with open_document(Source(_name(uploads[0]), uploads[0].data, pages)) as document:
                _check_count(document, limits)
                return {"pages": [_page(document, page.number) for page in _checked(document.pages, check)]}
        except ImageError as error:
            raise ApiError(400, f"{_name(uploads[0])}: {error}", param="file", code="invalid_image") from None

    found = await context.drawing.do(
        request, context.client(request), work, seconds=limits.seconds, retry_after=context.retry_after()
    )  # fmt: skip
    return JsonResponse(found)


async def _answer(
    context: Context, request: Request, model: str, rows: Callable[[LMM, Check], list[dict[str, Any]]]
) -> Response:
    """Have rows made, with a model that is loaded for as long as that takes."""

    def work(check: Check) -> dict[str, Any]:
        served = context.shelf.open(model)
        try:
            return {"documents": rows(served.lmm, check)}
        finally:
            context.shelf.give_back(served)

    seconds, retry_after = context.settings.limits.seconds, context.retry_after()
    found = await context.reading.do(
        request, context.client(request), work, seconds=seconds, retry_after=retry_after
    )  # fmt: skip
    return JsonResponse(found)


def _processed(sources: Sequence[Source], process: Process, empty: Mapping[str, Any], check: Check) -> Iterator[Done]:
    """What comes of documents; given up between pages where nobody waits any more."""

    def watch(_: Document, number: int, error: str | None) -> None:
        check()

    for done in process_documents(sources, process, empty=empty, watch=watch):
        check()
        yield done


def _sources(uploads: Sequence[Upload], pages: PageRanges | None, limits: Limits, check: Check) -> list[Source]:
    """The documents; one that is too large has that for its problem."""
    found, names = [], Counter[str]()
    for upload in uploads:
        check()
        name = _name(upload)
        names[name] += 1
        shown = name if names[name] == 1 else f"{name} ({names[name]})"
        problem: str | None = None
        try:
            check_pixels(upload.data, limits)
            with open_document(Source(name, upload.data, pages)) as document:
                _check_count(document, limits)
        except ApiError as error:
            problem = error.message
        except ImageError as error:
            problem = str(error)
        found.append(Source(shown, upload.data, pages, problem))
    return found


def _check_count(document: Document, limits: Limits) -> None:
    """Refuse a document of too many pages.

    Raises:
        ApiError: naming both numbers.
    """
    if len(document.pages) > limits.pages:
        raise ApiError(
            400, f"{len(document.pages)} pages, at most {limits.pages} are taken at once; choose with pages",
            param="pages", code="too_many_pages",
        )  # fmt: skip


def _reading_row(done: Done, written: str) -> dict[str, Any]:
    """The row of a document that was read."""
    result = done.outcome.result
    if not isinstance(result, DocumentReading):
        result = DocumentReading(done.name, done.sha256, error=done.outcome.error)
    if written == "json":
        return result.as_row()
    text = result.markdown if written == "markdown" else result.text
    return {
        "file": result.file,
        "sha256": result.sha256,
        "pages": done.pages,
        written: text,
        "certainty": result.certainty,
        "ending": "error" if done.pages is None else result.ending,
        "error": result.error,
    }


def _page(document: Document, number: int) -> dict[str, Any]:
    """A page, drawn."""
    picture, size = document.draw(number, _LARGEST_DRAWN), document.size(number)
    shown = fitted(picture)
    return {
        "page": number,
        "width": shown.width,
        "height": shown.height,
        "size": [round(side, 2) for side in size or picture.size],
        "unit": "pixel" if size is None else "point",
        "image": data_url(shown),
    }


def _checked(pages: Sequence[Any], check: Check) -> Iterator[Any]:
    for page in pages:
        check()
        yield page


def _pages(form: Form) -> PageRanges | None:
    text = form.text("pages")
    return None if text is None else parse_pages(text)


def _name(upload: Upload) -> str:
    """The name of a file without folders, on one line."""
    name = PureWindowsPath(PurePosixPath(upload.name).name).name
    return "".join(c if c.isprintable() else "?" for c in name)[:200] or "file"
