"""The chat template of a model: from messages to the one text that it was trained to read.

A template comes with a checkpoint, so it is untrusted: it runs in a sandbox (`template_environment`), on a budget of
steps and characters (`template_limits`), and whatever it does wrong is a prompt error of one line.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Template, TemplateError, meta

from rave_mlx.errors import PromptError
from rave_mlx.inputs.prompt.template_environment import Environment
from rave_mlx.inputs.prompt.template_limits import TemplateLimit, metered

_LONGEST_SOURCE = 200_000
"""Characters of a template's own text; the longest published ones have some 20,000."""
_FAILURES = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, NotImplementedError)
"""What a template that meets a conversation it was not written for may raise."""


class TemplateLimitError(PromptError):
    """A chat template that runs or grows too far."""


class ChatTemplate:
    """A compiled template. Rendering is a pure function of the messages (and of the clock, where it asks for it).

    Args:
        source: the template's text, Jinja.
        tokens: the named special tokens that the template sees as variables, as `{"bos_token": "<s>"}`.

    Raises:
        PromptError: for a text that is no template, or is too long or too deeply nested.
    """

    def __init__(self, source: str, tokens: Mapping[str, str] | None = None):
        if len(source) > _LONGEST_SOURCE:
            raise PromptError(f"the model's chat template has {len(source):,} characters; it is damaged or hostile")
        self.source = source
        self._tokens = dict(tokens or {})
        try:
            self._template: Template = Environment().from_string(source)
        except (RecursionError, MemoryError):
            raise PromptError("the model's chat template does not compile: it is nested too deeply") from None
        except (TemplateError, SyntaxError, ValueError, OverflowError) as error:
            raise PromptError(f"the model's chat template does not compile: {error}") from None

    @functools.cached_property
    def knows_tools(self) -> bool:
        """Whether it shows the tools that a conversation offers."""
        return "tools" in meta.find_undeclared_variables(Environment().parse(self.source))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """The conversation as one string.

        Args:
            messages: as the template sees them.
            add_generation_prompt: end where the answer begins.
            tools: that are offered, as OpenAI has them.

        Raises:
            PromptError: when the template refuses the messages (roles out of order, say) or fails.
            TemplateLimitError: when it takes too many steps or writes too much.
        """
        given = {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "tools": list(tools) or None,
            "documents": None,
        }
        try:
            with metered(len(messages)):
                return self._template.render(self._tokens | given)
        except TemplateLimit as error:
            raise TemplateLimitError(f"the model's chat template {error}; use another one, or another model") from None
        except (RecursionError, MemoryError):
            raise TemplateLimitError("the model's chat template is nested too deeply, or calls itself") from None
        except _FAILURES as error:
            raise PromptError(f"the model's chat template refuses this conversation: {error}") from None
