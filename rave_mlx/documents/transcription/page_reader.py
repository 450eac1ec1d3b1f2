"""Pages in, readings out: asks, reads answers, and asks once more where an answer repeated itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rave_mlx.documents.pages import Document, Page, describe_failures
from rave_mlx.documents.stream import KEPT_BYTES, Outcome
from rave_mlx.documents.transcription.answer_formats import Shown, read_answer
from rave_mlx.documents.transcription.answer_tokens import AnswerText, answer_text
from rave_mlx.documents.transcription.blocks import Block
from rave_mlx.documents.transcription.choose_prompt import choose_prompt
from rave_mlx.documents.transcription.line_blocks import line_blocks
from rave_mlx.documents.transcription.page_questions import Asker, PageQuestions, ReadOptions
from rave_mlx.documents.transcription.reading import DocumentReading, PageReading
from rave_mlx.errors import PromptError, RaveError
from rave_mlx.generation.job import Answer, Ending, Failed, Job
from rave_mlx.generation.page_store import PageStore
from rave_mlx.generation.repetition import loop_in
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.models.lmm import LMM

PageListener = Callable[[Document, PageReading], None]
"""Told of every page as soon as it is read, in order."""


@dataclass(eq=False)
class _Open:
    """A document that is being read."""

    document: Document
    pages: list[PageReading] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return len(self.pages) == len(self.document.pages)


@dataclass(eq=False)
class _Asked:
    """A page whose answers are awaited."""

    owner: _Open
    questions: PageQuestions
    answers: list[Answer] = field(default_factory=list)

    @property
    def is_answered(self) -> bool:
        return len(self.answers) == len(self.questions.questions)


class PageReader:
    """Reads documents with one model.

    Args:
        lmm: the model.
        options: how pages are read.
        batch_size: how many answers are written at a time.
        listener: told of every page.
        pages: where what was read of pages is kept on disk, and found again; None: nowhere.

    Raises:
        PromptError: for a model that reads no images.
    """

    def __init__(
        self,
        lmm: LMM,
        options: ReadOptions | None = None,
        *,
        batch_size: int = 8,
        listener: PageListener | None = None,
        pages: PageStore | None = None,
    ):
        if lmm.config.vision is None:
            raise PromptError("this model reads text only; choose a vision-language model")
        self.lmm, self.options = lmm, options or ReadOptions()
        self.asker = Asker(lmm, choose_prompt(lmm), self.options)
        self._scheduler = Scheduler(lmm, rows=batch_size, prefix_bytes=KEPT_BYTES, pages=pages)
        # The pile's scheduler is busy with the answers ahead while a page is asked again.
        self._second = Scheduler(lmm, rows=batch_size, prefix_bytes=KEPT_BYTES)
        self.listener = listener

    def process(self, documents: Iterator[Document]) -> Iterator[Outcome]:
        """One outcome a document, in order; its result is a `DocumentReading`."""
        waiting: deque[_Open] = deque()
        pages: deque[_Asked] = deque()
        answers = self._scheduler.run(self._jobs(documents, waiting, pages))
        for answer in answers:
            self._take(answer, pages)
            yield from self._finished(waiting)
        self._close(pages)
        yield from self._finished(waiting)

    def _jobs(
        self, documents: Iterator[Document], waiting: deque[_Open], pages: deque[_Asked]
    ) -> Iterator[Job | Failed]:
        """The jobs of all pages; runs ahead, in a thread of its own."""
        for document in documents:
            owner = _Open(document)
            waiting.append(owner)
            for page in document.pages:
                try:
                    questions = self.asker.page(page)
                except RaveError as error:
                    asked = _Asked(owner, PageQuestions(page))
                    pages.append(asked)
                    yield Failed(error, (asked.questions, -1))
                    continue
                pages.append(_Asked(owner, questions))
                yield from self.asker.jobs(questions, features=self._scheduler.features)

    def _take(self, answer: Answer, pages: deque[_Asked]) -> None:
        """Put an answer where it belongs; pages before that have all theirs are done."""
        questions = answer.key[0]  # type: ignore[index]  # of `Asker.jobs`
        while pages and pages[0].questions is not questions:
            self._finish(pages.popleft())
        asked = pages[0]
        asked.answers.append(answer)
        if asked.is_answered or not asked.questions.questions:
            self._finish(pages.popleft())

    def _close(self, pages: deque[_Asked]) -> None:
        """Finish the pages on which nothing had to be asked, at the end of the pile."""
        while pages:
            self._finish(pages.popleft())

    def _finish(self, asked: _Asked) -> None:
        reading = self._reading(asked.questions, asked.answers)
        asked.owner.pages.append(reading)
        document = asked.owner.document
        document.page_done(reading.page, reading.error)
        if self.listener is not None:
            self.listener(document, reading)

    def _finished(self, waiting: deque[_Open]) -> Iterator[Outcome]:
        while waiting and waiting[0].is_done:
            yield _outcome(waiting.popleft())

    def _reading(self, questions: PageQuestions, answers: list[Answer]) -> PageReading:
        """What the answers about a page say; asked again where one repeated itself."""
        page, retried = questions.page, 0
        failed = next((answer.error for answer in answers if answer.error is not None), None)
        if failed is not None and (not questions.questions or len(answers) == 1):
            return PageReading(page.number, ending="error", error=page.reason(failed))
        texts = [self._text(answer) for answer in answers]
        looping = [n for n, answer in enumerate(answers) if self._loops(answer, texts[n])]
        if looping:
            retried = 1
            jobs = self.asker.jobs(questions, again=True, only=looping, features=self._second.features)
            for answer in self._second.run(jobs):
                number = answer.key[1]  # type: ignore[index]  # of `Asker.jobs`
                text = self._text(answer)
                if answer.error is None and not self._loops(answer, text):
                    answers[number], texts[number] = answer, text
        if any(self._loops(answer, text) for answer, text in zip(answers, texts, strict=True)):
            whole = len(questions.questions) == 1 and questions.questions[0].line is None
            if whole:
                retried = 2
                strips = self._strips(page)
                if strips is not None:
                    return strips
        return self._compose(questions, answers, texts, retried)

    def _strips(self, page: Page) -> PageReading | None:
        """A page read strip by strip; None where that is no better."""
        try:
            questions = self.asker.strips(page)
        except RaveError:
            return None
        jobs = self.asker.jobs(questions, features=self._second.features)
        answers = list(self._second.run(jobs))
        texts = [self._text(answer) for answer in answers]
        if not any(answer.ending == "stop" for answer in answers):
            return None
        return self._compose(questions, answers, texts, 2)

    def _compose(
        self, questions: PageQuestions, answers: list[Answer], texts: list[AnswerText], retried: int
    ) -> PageReading:
        """The reading of a page from answers that are taken as they are."""
        page, ask = questions.page, self.asker.ask
        lines = [question.line for question in questions.questions]
        blocks: list[Block] = []
        if ask.part == "lines":
            crops = [line for line in lines if line is not None]
            certainties = [text.certainty(0, len(text.text)) for text in texts]
            blocks = line_blocks(crops, [text.text for text in texts], certainties)
        else:
            for number, text in enumerate(texts):
                shown = questions.shown.get(number, Shown())
                blocks += text.of_blocks(read_answer(text.text, ask.format, ask.boxes, shown))
        ending, error = self._ending(answers, texts, line_by_line=ask.part == "lines")
        probabilities = [float(t.probabilities.min()) for t in texts if len(t.probabilities)]
        return PageReading(
            page.number,
            tuple(blocks),
            ending,
            min(probabilities) if probabilities else None,
            retried,
            error,
            questions.size,
            "point" if page.document.is_pdf else "pixel",
        )

    def _ending(
        self, answers: list[Answer], texts: list[AnswerText], *, line_by_line: bool
    ) -> tuple[Ending, str | None]:
        """How the answers about a page ended, the worst of them, and what is missing because of it."""
        endings: list[Ending] = [
            "repetition" if self._loops(answer, text) else answer.ending
            for answer, text in zip(answers, texts, strict=True)
        ]
        part = "line" if line_by_line else "part" if len(answers) > 1 else "answer"
        errors = [str(answer.error) for answer in answers if answer.error is not None]
        if errors:
            return "error", errors[0]
        reasons: dict[Ending, str] = {
            "repetition": "repeats itself and is cut",
            "length": "is cut at the limit of its length" + ("" if line_by_line else "; raise --max-tokens"),
            "cancelled": "was cancelled",
        }
        for ending, why in reasons.items():
            if count := endings.count(ending):
                which = f"the {part}" if len(answers) == 1 else f"{count} of {len(answers)} {part}s"
                return ending, f"{which} {why}"
        return "stop", None

    def _text(self, answer: Answer) -> AnswerText:
        return answer_text(self.lmm, answer, control=self.asker.ask.format in ("doctags", "doclang", "grounded"))

    @staticmethod
    def _loops(answer: Answer, text: AnswerText) -> bool:
        """Whether an answer repeated itself until it was cut, or until its limit."""
        if answer.ending == "length":
            ends = text.ends.tolist()
            pieces = [text.text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
            return loop_in(answer.ids[: len(pieces)], pieces) is not None
        return answer.ending == "repetition"


def _outcome(read: _Open) -> Outcome:
    """What came of a document."""
    failures = {page.page: page.error for page in read.pages if page.error is not None}
    count = len(read.document.pages)
    failures.update(dict.fromkeys(read.document.missing, f"the document has {count} page{'s' * (count != 1)}"))
    error = describe_failures(failures) if failures else None
    result = DocumentReading(read.document.name, read.document.sha256, tuple(read.pages), error)
    return Outcome(error=error, result=result)
