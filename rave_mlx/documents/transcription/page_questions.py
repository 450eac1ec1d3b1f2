"""What is asked of a page: the whole of it, its lines one by one, or strips of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from PIL import Image

from rave_mlx.chat.jobs import make_job
from rave_mlx.config import ImageConfig
from rave_mlx.documents.pages import Page
from rave_mlx.documents.transcription.answer_formats import Shown
from rave_mlx.documents.transcription.blocks import Box
from rave_mlx.documents.transcription.prompt_file import Ask, PagePrompt
from rave_mlx.errors import RaveError
from rave_mlx.generation.drafts import TextDrafts
from rave_mlx.generation.job import Failed, Job
from rave_mlx.generation.page_alignment import PageIndex
from rave_mlx.generation.sampling import Sampling
from rave_mlx.inputs.images.pdf_text import PageText
from rave_mlx.inputs.lines.line_crops import LineCrop, crop_lines, page_pixels
from rave_mlx.inputs.lines.page_lines import find_lines
from rave_mlx.inputs.prompt.message import TextPart
from rave_mlx.models.lmm import LMM


@dataclass(frozen=True)
class ReadOptions:
    """How pages are read.

    Attributes:
        boxes: whether the model is asked for boxes, where it has a way to write them.
        image_tokens: budget of visual tokens a page; None for what its prompt says.
        max_tokens: limit of an answer's length; None for what the prompt says.
        drafts: whether the text layer of a PDF is used to guess answers; they are the same without.
    """

    boxes: bool = False
    image_tokens: int | None = None
    max_tokens: int | None = None
    drafts: bool = True


@dataclass(frozen=True, eq=False)
class Question:
    """One question about a page, or a part of it.

    Attributes:
        ask: what is asked.
        picture: what is shown: the page, or a picture of a part.
        part: which part of the page that is, in fractions of its sides.
        most: limit of the answer's length.
        line: the printed line that it shows, where it is one.
    """

    ask: Ask
    picture: Page | Image.Image
    part: Box
    most: int
    line: LineCrop | None = None


@dataclass(eq=False)
class PageQuestions:
    """What is asked of one page.

    Attributes:
        page: which.
        questions: in reading order; none for an empty page that is read by its lines.
        index: of the page's text layer, for drafts.
        shown: by question: the pixels that the model saw.
        size: width and height of the page: points of a PDF, pixels of a picture; None until it is known.
    """

    page: Page
    questions: list[Question] = field(default_factory=list)
    index: PageIndex | None = None
    shown: dict[int, Shown] = field(default_factory=dict)
    size: tuple[float, float] | None = None


class Asker:
    """Makes questions and jobs of pages.

    Args:
        lmm: the model.
        prompt: how it is asked.
        options: of the run.
    """

    def __init__(self, lmm: LMM, prompt: PagePrompt, options: ReadOptions):
        self.lmm, self.prompt, self.options = lmm, prompt, options
        self.ask = prompt.ask(options.boxes)
        # Rereading a line at other sizes costs much and brings nothing: it is shown in the right one.
        self._policy = ("rave" if lmm.decoder.gates else "none") if self.ask.part == "lines" else None

    @property
    def most(self) -> int:
        """Limit of an answer's length."""
        return self.options.max_tokens or self.prompt.limits.max_tokens

    def page(self, page: Page) -> PageQuestions:
        """What is asked of a page at first.

        Raises:
            RaveError: for a page that cannot be drawn.
        """
        index = self._index(page) if self.options.drafts else None
        asked = PageQuestions(page, index=index, size=page.document.size(page.number))
        if self.ask.part == "page":
            asked.questions.append(Question(self.ask, page, (0.0, 0.0, 1.0, 1.0), self.most))
            return asked
        picture = page.draw(page_pixels(asked.size))
        asked.size = asked.size or picture.size
        for crop in crop_lines(find_lines(picture)):
            asked.questions.append(Question(self.ask, crop.picture, crop.box, min(self.most, crop.most), crop))
        return asked

    def strips(self, page: Page, most: int = 6) -> PageQuestions:
        """What is asked of a page whose answer repeated itself: strips of it, cut between lines.

        Args:
            page: which.
            most: how many strips at most.

        Raises:
            RaveError: for a page that cannot be drawn.
        """
        size = page.document.size(page.number)
        image = find_lines(page.draw(page_pixels(size)))
        asked = PageQuestions(page, size=size or image.image.size)
        cuts = _cuts([(line.box[1], line.box[3]) for line in image.lines], image.image.height, most)
        for top, bottom in pairwise(cuts):
            picture = image.image.crop((0, round(top), image.image.width, round(bottom)))
            part = (0.0, top / image.image.height, 1.0, bottom / image.image.height)
            asked.questions.append(Question(self.ask, picture, part, self.most))
        return asked

    def jobs(
        self, asked: PageQuestions, *, again: bool = False, only: list[int] | None = None, **rest: Any
    ) -> Iterator[Job | Failed]:
        """The jobs of a page's questions; each has (asked, number) for its key.

        Args:
            asked: the questions.
            again: whether tokens are drawn as for another try.
            only: numbers of the questions that are asked; None for all.
            rest: further arguments of `make_job`.
        """
        for number in range(len(asked.questions)) if only is None else only:
            key = (asked, number)
            try:
                yield self._job(asked, number, again, key=key, **rest)
            except RaveError as error:
                yield Failed(error, key)

    def _job(self, asked: PageQuestions, number: int, again: bool, **rest: Any) -> Job:
        question = asked.questions[number]
        content: list[dict[str, Any] | TextPart] = [{"type": "image", "image": question.picture}]
        if question.ask.text:
            content.insert(question.ask.image == "before", self._text(question.ask.text))
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if question.ask.system:
            messages.insert(0, {"role": "system", "content": question.ask.system})
        sampling = Sampling(**self.prompt.again.to_dict(), seed=number + 1) if again else Sampling()
        drafts = None
        if asked.index is not None and sampling == Sampling():
            part = None if question.line is None else question.part
            drafts = TextDrafts(self.lmm.tokenizer, asked.index, part=part, stop=self.lmm.config.tokens.stop[0])
        budget = self.options.image_tokens or (self.prompt.limits.image_tokens if question.line is None else None)
        job = make_job(
            self.lmm,
            messages,
            policy=self._policy,
            max_tokens=question.most,
            image_tokens=budget,
            sampling=sampling,
            drafts=drafts,
            **rest,
        )
        image = job.prompt.images[0]
        config = self.lmm.config.image
        seen = image.size
        if isinstance(config, ImageConfig):
            seen = image.grid[2] * config.patch_size, image.grid[1] * config.patch_size
        if isinstance(question.picture, Page):
            asked.size = asked.size or image.size
        asked.shown[number] = Shown(seen, question.part)
        return job

    def _text(self, text: str) -> dict[str, Any] | TextPart:
        """A question as part of a message. In the words of this package, unlike a user's, control tokens count."""
        ids = self.lmm.tokenizer.encode_own(text)
        return {"type": "text", "text": text} if ids is None else TextPart(text, tuple(ids))

    @staticmethod
    def _index(page: Page) -> PageIndex | None:
        """The page's text layer, where it has one that can be trusted."""
        try:
            text: PageText | None = page.text()
        except RaveError:
            return None  # the picture may still be readable
        return PageIndex.of(text) if text is not None and text.usable else None


def _cuts(lines: list[tuple[float, float]], height: int, most: int) -> list[float]:
    """Heights at which a page is cut into strips of about one size: between lines, where there are any."""
    spans = sorted(lines)
    gaps: list[float] = []
    bottom = 0.0
    for top, end in spans:
        if top > bottom > 0:
            gaps.append((top + bottom) / 2)
        bottom = max(bottom, end)
    count = max(2, min(most, -(-len(spans) // 8) if spans else 3))
    if not gaps:
        return [height * i / count for i in range(count + 1)]
    wanted = [height * i / count for i in range(1, count)]
    nearest = sorted({min(gaps, key=lambda gap, at=at: abs(gap - at)) for at in wanted})  # type: ignore[misc]
    return [0.0, *nearest, float(height)]
