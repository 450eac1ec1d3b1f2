"""`rave_mlx.read`: the text of documents, page by page, as a model reads it."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from rave_mlx.api import load
from rave_mlx.documents.pages_spec import PageRanges, parse_pages
from rave_mlx.documents.sources import Named, find_documents
from rave_mlx.documents.stream import process_documents
from rave_mlx.documents.transcription.page_questions import ReadOptions
from rave_mlx.documents.transcription.page_reader import PageReader
from rave_mlx.documents.transcription.reading import DocumentReading
from rave_mlx.errors import UsageError
from rave_mlx.generation.page_store import PageStore
from rave_mlx.models.lmm import LMM


def read(
    path_or_paths: Named,
    lmm: LMM | None = None,
    *,
    pages: str | PageRanges | None = None,
    boxes: bool = False,
    image_tokens: int | None = None,
    max_tokens: int | None = None,
    batch_size: int = 8,
    drafts: bool = True,
    page_cache: bool = False,
) -> Iterator[DocumentReading]:
    """Transcribe PDFs, TIFFs and pictures: headings, paragraphs and tables of every page, in reading order.

        for document in rave_mlx.read("scans/"):
            print(document.file, document.markdown)

    A document that cannot be read is one with `error`; the others go on.

    Args:
        path_or_paths: a file, folder or pattern, the bytes of a document, a picture; or several of these.
        lmm: the model, as of `load`; None for the built-in one.
        pages: which pages of every document, as in "1-3,7"; None for all.
        boxes: whether the model is asked where things stand, where it has a way to say so.
        image_tokens: budget of visual tokens a page; None for what suits the model.
        max_tokens: limit of an answer's length in tokens; None for what suits the model.
        batch_size: how many answers are written together.
        drafts: whether the text layer of a PDF is used to guess answers; they are the same without, but take longer.
        page_cache: whether what is read of pages is kept on disk, for the next time.

    Raises:
        ImageError: when nothing of what is named is there.
        PromptError: for a model that reads no images.
        UsageError: for options without meaning.
    """
    if lmm is not None and not isinstance(lmm, LMM):
        raise UsageError(f"the model is a {type(lmm).__name__}; open one with rave_mlx.load(...) first")
    for name, value in (("image_tokens", image_tokens), ("max_tokens", max_tokens), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; it must be 1 or more")
    ranges = parse_pages(pages) if isinstance(pages, str) else pages
    pile = find_documents(path_or_paths, pages=ranges)
    options = ReadOptions(boxes=boxes, image_tokens=image_tokens, max_tokens=max_tokens, drafts=drafts)
    model = load() if lmm is None else lmm
    store = PageStore.open(model) if page_cache else None
    reader = PageReader(model, options, batch_size=batch_size, pages=store)

    def readings() -> Generator[DocumentReading]:
        for done in process_documents(pile.documents, reader.process, empty={}):
            if isinstance(done.outcome.result, DocumentReading):
                yield done.outcome.result
            else:
                yield DocumentReading(done.name, done.sha256, error=done.outcome.error)

    return readings()
