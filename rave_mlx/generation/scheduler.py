"""Writing many answers at a time: prompts are read one after the other, answers are written together.

    scheduler = Scheduler(lmm)
    for answer in scheduler.run(jobs): ...          # a pile, in order

    ticket = scheduler.add(job)                     # or as they come, for a server
    while scheduler.is_busy:
        for event in scheduler.step(): ...

Between two passes over the answers that are being written, one chunk of the next prompt is read: they go on while it is
read. An answer is what it would be by itself, up to rounding (of logits, about 1e-6 of their size in float32): the
products over several rows add in another order than those over one.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.backend.cpu.allocator import FreedMemory
from rave_mlx.backend.gpu_memory import CLEAR_EVERY, clear_cache, wired_memory
from rave_mlx.errors import RaveError, UsageError
from rave_mlx.generation.answer_row import AnswerRow
from rave_mlx.generation.batch import Batch
from rave_mlx.generation.job import Answer, Failed, Job, NewToken
from rave_mlx.generation.lone_answer import LoneAnswer
from rave_mlx.generation.page_store import PageStore
from rave_mlx.generation.pile import answers_in_order
from rave_mlx.generation.prefill import Reading, kept_bytes
from rave_mlx.generation.prefix_store import FeatureStore, PrefixStore
from rave_mlx.generation.turns import COMPUTING
from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.models.lmm import LMM
from rave_mlx.models.rope_scaling import rope_bucket

CHUNK = 512
"""Prompt tokens that are read between two passes over the answers."""


@dataclass(frozen=True, eq=False)
class Event:
    """Something new of one answer.

    Attributes:
        ticket: of `Scheduler.add`.
        text: the characters that came; an answer that is cut as a loop takes back some of them.
        answer: the whole of it, when it has ended.
        tokens: those that came, whose texts together are `text`.
    """

    ticket: int
    text: str
    answer: Answer | None = None
    tokens: tuple[NewToken, ...] = ()


@dataclass(frozen=True, eq=False)
class _Read:
    """A row whose prompt is being read; the bucket of its rotary frequencies; when that began."""

    row: AnswerRow
    reading: Reading
    bucket: int
    began: float


class Scheduler:
    """Writes the answers to jobs, several at a time.

    `add` and `cancel` may be called in any thread, `step` and `run` in one.

    Args:
        lmm: the model.
        rows: how many answers are written at a time.
        prefix_bytes: bytes of keys and values of recent prompts that are kept, for prompts that begin in the same way;
            None: a sixteenth of the memory, 1 GiB at most.
        pages: where what was read of pages is kept on disk, and found again; None: nowhere.

    Attributes:
        features: of recent images by digest, for `make_job`.
        prefixes: caches of recent prompts, for `make_job`.
        prompt_tokens: how many tokens of prompts have been read: those that were known not counted.

    Raises:
        UsageError: for less than one row.
    """

    def __init__(self, lmm: LMM, *, rows: int = 8, prefix_bytes: int | None = None, pages: PageStore | None = None):
        if rows < 1:
            raise UsageError(f"rows is {rows}; at least 1 answer is written at a time")
        self.lmm, self.rows = lmm, rows
        self.features = FeatureStore(prefix_bytes)
        self.prompt_tokens = 0
        self.prefixes = PrefixStore(prefix_bytes)
        self._pages = pages
        self._waiting: deque[AnswerRow] = deque()
        self._read: _Read | None = None
        self._batches: dict[tuple[bool, int], Batch] = {}
        self._lone: list[LoneAnswer] = []
        self._open: dict[int, AnswerRow] = {}
        self._tickets = itertools.count()
        self._steps = 0
        self._freed = FreedMemory()
        self._wired: weakref.finalize[[], Scheduler] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether there is an answer to write."""
        return bool(self._open)

    @property
    def free_rows(self) -> int:
        """How many more answers could be written now."""
        return self.rows - len(self._open)

    def add(self, job: Job) -> int:
        """Take a job; returns its ticket. What is wrong with it is said in its answer."""
        row = AnswerRow(self.lmm, job, next(self._tickets))
        if job.max_tokens < 1:
            row.fail(UsageError(f"max_tokens is {job.max_tokens}; an answer has at least 1"))
        self._open[row.ticket] = row
        self._waiting.append(row)
        return row.ticket

    def cancel(self, ticket: int) -> None:
        """End an answer where it is; its last event comes with the next step. Nothing happens where it has ended."""
        row = self._open.get(ticket)
        if row is not None:
            row.cancel()

    def step(self) -> list[Event]:
        """Read a chunk of a prompt, and write at least one token of every answer whose prompt is read."""
        if self._wired is None and self._open:
            held = ExitStack()
            held.enter_context(wired_memory())
            # Also where a step fails, or nobody asks for the last answers.
            self._wired = weakref.finalize(self, held.close)
        with COMPUTING:
            self._read_on()
            for batch in self._batches.values():
                batch.advance()
            for lone in self._lone:
                if lone.row.ending is None:
                    lone.advance()
            self._batches = {key: batch for key, batch in self._batches.items() if batch.rows}
            self._lone = [lone for lone in self._lone if lone.row.ending is None]
        self._steps += 1
        if self._steps % CLEAR_EVERY == 0:
            clear_cache()
            self._freed.give_back()
        events = self._events()
        if self._wired is not None and not self._open:
            self._wired()
            self._wired = None
        return events

    def run(self, jobs: Iterable[Job | Failed]) -> Iterator[Answer]:
        """Answers in the order of the jobs.

        Jobs are taken as they are needed, a few ahead, in a thread of their own. An error of one job is in its answer,
        and the others go on.

        Args:
            jobs: what is to be written; `Failed` becomes an answer with the error.

        Raises:
            Exception: what the iterable raises, after the answers to the jobs before.
        """
        return answers_in_order(self, jobs)

    def _events(self) -> list[Event]:
        """What is new of each answer."""
        events = []
        for ticket, row in list(self._open.items()):
            text, tokens = row.new_text(), row.new_tokens()
            if row.ending is not None:
                del self._open[ticket]
                events.append(Event(ticket, text, row.answer(), tokens))
            elif tokens:
                events.append(Event(ticket, text, None, tokens))
        return events

    def _read_on(self) -> None:
        """Read on in the prompt at hand, or begin with the next one; when it is read, its answer begins."""
        if self._read is not None and self._read.row.ending is not None:
            self._read = None
        try:
            if self._read is None:
                self._read = self._begin()
            if self._read is None:
                return
            logits = self._read.reading.advance()
        except RaveError as error:
            if self._read is not None:
                self._read.row.fail(error)
            self._read = None
            return
        if logits is None:
            return
        read, self._read = self._read, None
        self._keep(read)
        read.row.begin(logits)
        read.row.prefill_seconds = time.monotonic() - read.began
        if read.row.ending is None:
            self._place(read)

    def _begin(self) -> _Read | None:
        """Begin with the next prompt, where there is one and room for its answer."""
        while self._waiting and self._waiting[0].ending is not None:
            self._waiting.popleft()
        if not self._waiting or self._writing >= self.rows or not self._has_memory(self._waiting[0].job):
            return None
        row, began = self._waiting.popleft(), time.monotonic()
        prompt, rope = row.job.prompt, self.lmm.config.text.rope
        bucket = rope_bucket(rope, prompt.token_map.next_position)
        try:
            hooks = None if row.job.hooks is None else row.job.hooks()
            cache = self.lmm.make_cache(gate=row.job.gate, hooks=hooks)
            if hooks is None:
                cache = self.prefixes.begin(prompt, cache, bucket)
            if self._pages is not None:
                self._pages.begin(prompt, cache, bucket)
                self.features.update(self._pages.missing_features(prompt, cache.length, self.features))
            row.reused = cache.length
            self.prompt_tokens += len(prompt) - cache.length
            reading = Reading(self.lmm, prompt, cache, features=self.features, chunk=CHUNK, others=self._images_ahead)
        except RaveError as error:
            row.fail(error)
            return None
        return _Read(row, reading, bucket, began)

    def _images_ahead(self) -> Iterator[ImagePatches]:
        """Images of the prompts that come next, as many as the store keeps features of."""
        room = self.features.most // 2
        for row in itertools.islice(self._waiting, self.rows):
            for image in row.job.prompt.images if row.ending is None else ():
                if image.digest in self.features or (self._pages is not None and self._pages.has_features(image)):
                    continue
                room -= image.tokens * self.lmm.config.text.hidden_size * mx.float32.size
                if room < 0:
                    return
                yield image

    @property
    def _writing(self) -> int:
        """How many answers are being written."""
        return sum(len(batch.rows) for batch in self._batches.values()) + len(self._lone)

    def _has_memory(self, job: Job) -> bool:
        """Whether the answer's keys and values fit beside the others'; the only answer may try."""
        # Once to read the prompt, once among the others, and once more while those are put together anew.
        need = 3 * kept_bytes(self.lmm, len(job.prompt) + job.max_tokens)
        need += sum(batch.nbytes for batch in self._batches.values())
        if need <= backend.memory().available:
            return True
        self.prefixes.shrink(0)
        return self._writing == 0 or need <= backend.memory().available

    def _keep(self, read: _Read) -> None:
        """Keep what was read for prompts that begin in the same way."""
        prompt, reading = read.row.job.prompt, read.reading
        if self._pages is not None:
            for image in reading.encoded:
                self._pages.keep_features(image, reading.features[image.digest])
            self._pages.keep(prompt, reading.cache, read.bucket, known=read.row.reused)
        self.features.update(reading.features)
        if read.reading.cache.hooks is None and not self._changes(read):
            self.prefixes.keep(read.row.job.prompt, read.reading.cache, read.bucket)

    def _changes(self, read: _Read) -> bool:
        """Whether the rotary frequencies may change before the answer ends."""
        job, rope = read.row.job, self.lmm.config.text.rope
        return rope_bucket(rope, job.prompt.token_map.next_position + job.max_tokens) != read.bucket

    def _place(self, read: _Read) -> None:
        """Let an answer that has begun go on."""
        row, cache = read.row, read.reading.cache
        if cache.hooks is not None or self._changes(read):
            self._lone.append(LoneAnswer(self.lmm, row, cache, read.reading.features))
            return
        key = (cache.gated, read.bucket)
        if key not in self._batches:
            self._batches[key] = Batch(self.lmm)
        self._batches[key].join(row, cache)
