"""Other wordings (`--attention wordings`): questions are also asked by the labels that documents print. Ours.

A small reader that finds "Total due" on a page may not know that "how much do I owe" asks for it. What people ask for
has a role (`question_roles`), and a role has labels. So where the answer to the question as it was typed is in doubt,
the roles that it may mean are asked for by their labels as well ("What is the Amount due?"), and all answers y are
compared:

    score(y) = - sum_i log(1 - w_i c_i)        over the wordings i that are answered with y

c_i is how sure the answer is, the probability of its least likely token. w_i is 1 for the question itself, else the
likeness of role and question, and a tenth of that for an answer that cannot be a value of the role (an amount is no
date) or that says that nothing was found: a label that is not on the page says little about another one. The wording
whose answer has the largest score, of several the surest, is read instead of the question.

Near to it: self-consistency over paraphrases (arXiv 2203.11171 votes over samples of one prompt).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx
import numpy as np

from rave_mlx.errors import UsageError
from rave_mlx.inputs.prompt.message import ImagePart, Message, TextPart
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.rereading.answer_kinds import fits
from rave_mlx.policies.rereading.auxiliary_pass import AuxiliaryPass
from rave_mlx.policies.rereading.crops import ask_instead
from rave_mlx.policies.rereading.policy import RereadingPolicy
from rave_mlx.policies.rereading.question_roles import roles_meant
from rave_mlx.synthetic.meaning import ROLES

_SUREST = 0.995
"""A certainty counts as no more: the logarithm of nothing would outweigh every other wording."""


_YES_OR_NO = re.compile(
    r"(is|are|was|were|do|does|did|has|have|had|will|would|should|may|must|am)\b|(can|could) (?!you)", re.IGNORECASE
)
"""How a question begins that no value answers."""


@dataclass(frozen=True)
class Wordings(RereadingPolicy):
    """Asks, where an answer is in doubt, by the labels that documents print for what the question means.

    Attributes:
        sure: the certainty from which the answer to the question as typed is taken, and nothing else is asked; above
            1: other wordings are always asked.
        like: least likeness of the question and a role's phrasings; below it the question is asked as it is typed.
        near: least share of the largest likeness that a further role must have to be asked for, too.
        labels: how many labels of a role are asked for.
        doubt: what the certainty of an answer counts that is not of the role's kind, or that says that nothing was
            found.
        tokens: longest answer that is compared.
        least: certainty below which another wording's answer is given up before its end.
        longest: letters of the longest question that is asked otherwise.
        absent: what the model answers where there is nothing to find.
    """

    name: ClassVar[str] = "wordings"
    originals: ClassVar[bool] = False
    rewords: ClassVar[bool] = True

    sure: float = 0.9
    like: float = 0.65
    near: float = 0.9
    labels: int = 3
    doubt: float = 0.1
    tokens: int = 64
    least: float = 0.15
    longest: int = 160
    absent: str = "not found"

    def __post_init__(self) -> None:
        if self.labels < 1 or self.tokens < 1 or self.longest < 1:
            raise UsageError("--attention wordings: labels, tokens and longest must be at least 1")
        if self.sure < 0 or not (0 < self.like <= 1 and 0 < self.near <= 1 and 0 <= self.doubt <= 1):
            raise UsageError(
                f"--attention wordings: sure {self.sure:g} must be 0 or more, like {self.like:g} and near "
                f"{self.near:g} above 0 and at most 1, doubt {self.doubt:g} from 0 to 1"
            )

    def revise(
        self, lmm: LMM, messages: Sequence[Message], gate: bool | None, features: MutableMapping[str, mx.array]
    ) -> list[Message]:
        """The conversation with the wording that is answered best in place of its last question.

        A conversation without images, an answer that has begun, a question to be answered with yes or no, and one that
        means no known role stay.

        Raises:
            PromptError, MemoryLimitError: where the conversation does not fit.
        """
        question = _question(messages)
        wordings = list(self._wordings(question)) if 0 < len(question) <= self.longest else []
        if not wordings:
            return list(messages)
        reader = _Reader(self, lmm, gate, features)
        first = _Asked(_Wording(question), *reader.answer(messages))
        if first.certainty >= self.sure and self._found(first.answer):
            return list(messages)
        asked = [first]
        for wording in wordings:
            answer, certainty = reader.answer(_reworded(messages, wording.text), self.least)
            if certainty:
                asked.append(_Asked(wording, answer, certainty))
        best = self._best(asked, {wording.role: wording.likeness for wording in wordings})
        return list(messages) if best is first else _reworded(messages, best.wording.text)

    def _wordings(self, question: str) -> Iterator[_Wording]:
        """What to ask besides the question itself."""
        meant = roles_meant(question)
        used = {question.strip().lower()}
        for each in meant:
            if each.likeness < max(self.like, self.near * meant[0].likeness):
                return
            labels: dict[str, str] = {}
            for label in ROLES[each.role].labels:
                plain = label.rstrip(":").strip()
                labels.setdefault(plain.lower(), plain)
            for label in list(labels.values())[: self.labels]:
                text = f"What is the {label}?"
                if text.lower() not in used:
                    used.add(text.lower())
                    yield _Wording(text, each.role, each.likeness)

    def _best(self, asked: Sequence[_Asked], meant: Mapping[str, float]) -> _Asked:
        """The wording of the answer with the largest score; `meant` are the roles that the question may mean."""
        scores: dict[str, float] = defaultdict(float)
        surest: dict[str, _Asked] = {}
        for each in asked:
            key = each.answer.strip().lower().rstrip(".")
            scores[key] -= math.log(1 - min(_SUREST, each.certainty * self._weight(each, meant)))
            if key not in surest or each.certainty > surest[key].certainty:
                surest[key] = each
        return surest[max(scores, key=lambda key: scores[key])]

    def _weight(self, asked: _Asked, meant: Mapping[str, float]) -> float:
        """What the certainty of an answer counts."""
        wording = asked.wording
        if not self._found(asked.answer):
            return self.doubt * wording.likeness if wording.role else 1.0
        if wording.role:
            return wording.likeness * (1.0 if fits(ROLES[wording.role].kind, asked.answer) else self.doubt)
        # The question itself: how likely it means a role at all is how much the roles' kinds say about its answer.
        if any(fits(ROLES[role].kind, asked.answer) for role in meant):
            return 1.0
        return 1 - (1 - self.doubt) * max(meant.values())

    def _found(self, answer: str) -> bool:
        return answer.strip().lower() not in ("", self.absent.lower())


@dataclass(frozen=True)
class _Wording:
    """A question: as it was typed, or for a label of a role."""

    text: str
    role: str = ""
    likeness: float = 1.0


@dataclass(frozen=True)
class _Asked:
    """A wording, what the model answers to it, and how sure it is."""

    wording: _Wording
    answer: str
    certainty: float


class _Reader:
    """Answers questions about one page greedily; the page is read once for all of them."""

    def __init__(self, policy: Wordings, lmm: LMM, gate: bool | None, features: MutableMapping[str, mx.array]) -> None:
        self._lmm, self._most = lmm, policy.tokens
        self._features, self._cache = features, lmm.make_cache(gate=gate)
        self._pass: AuxiliaryPass | None = None

    def answer(self, messages: Sequence[Message], enough: float = 0.0) -> tuple[str, float]:
        """The answer to a conversation and the probability of its least likely token, the stop token included.

        Args:
            messages: the conversation.
            enough: where the probability falls below it, the answer ends there, and 0 is given.
        """
        prompt = self._lmm.prompt(messages)
        if self._pass is None:
            self._pass = AuxiliaryPass(self._lmm, prompt, self._cache, self._features)
        else:
            self._pass.reset_prompt(prompt)
        ids: list[int] = []
        least = 1.0
        for _ in range(min(self._most, self._lmm.config.text.max_positions - len(prompt))):
            logits = np.asarray(self._pass.logits().astype(mx.float32))[0]
            token = int(logits.argmax())
            least = min(least, 1 / float(np.exp(logits - logits[token]).sum()))
            if least < enough:
                return self._lmm.tokenizer.decode([*ids, token]), 0.0
            if token in self._lmm.config.tokens.stop:
                break
            ids.append(token)
            self._pass.append_token(mx.array([token]))
        return self._lmm.tokenizer.decode(ids), least


def _question(messages: Sequence[Message]) -> str:
    """The last question, where it is about an image, asks for a value, and nobody has begun to answer; else nothing."""
    shows = any(isinstance(part, ImagePart) for message in messages for part in message.parts)
    if not shows or messages[-1].role != "user":
        return ""
    text = " ".join(part.text for part in messages[-1].parts if isinstance(part, TextPart)).strip()
    return "" if _YES_OR_NO.match(text) else text


def _reworded(messages: Sequence[Message], text: str) -> list[Message]:
    return ask_instead(messages, lambda _: text)
