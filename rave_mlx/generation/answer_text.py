"""The text of an answer while its tokens come."""

from __future__ import annotations

from collections.abc import Sequence

from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.inputs.prompt.tokenizer import TextStream, Tokenizer


class AnswerText:
    """Ids in, text out.

    Args:
        tokenizer: the model's.
        prompt: what is answered; where it ends in the beginning of the answer, the text goes on from there.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt):
        self._tokenizer = tokenizer
        message = prompt.token_map.message
        # At the start of a text some tokenizers leave out a space.
        self._begun = prompt.ids[0, message == message[-1]].tolist() if message[-1] >= 0 else []
        self._stream = self._fresh()
        self._handed_out = 0
        self.whole = ""

    def add(self, token: int, *, stopped: bool = False, last: bool = False) -> str:
        """A token came; returns the text that it completes.

        Args:
            token: its id.
            stopped: whether it is a stop token, which has no text.
            last: whether no other comes after it.
        """
        piece = "" if stopped else self._stream.add(token)
        if last:
            piece += self._stream.finish()
        self.whole += piece
        return piece

    def new(self) -> str:
        """What came since this was last asked."""
        start, self._handed_out = self._handed_out, len(self.whole)
        return self.whole[start:]

    def cut(self, ids: Sequence[int]) -> None:
        """Be the text of these ids only."""
        self._stream, self.whole = self._fresh(), ""
        for index, token in enumerate(ids):
            self.add(token, last=index + 1 == len(ids))

    def _fresh(self) -> TextStream:
        stream = self._tokenizer.stream()
        for token in self._begun:
            stream.add(token)
        return stream
