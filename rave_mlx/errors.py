"""Errors that a person caused and can mend.

Everything in the package that refuses input raises a subclass of `RaveError`. Its message is one line that
names what was wrong, where, and what to do; the command line prints it and exits with `exit_code`.
"""

from __future__ import annotations


class RaveError(Exception):
    """Base of all errors with a message meant for the user."""

    exit_code = 1


class UsageError(RaveError):
    """Options or arguments that do not go together."""

    exit_code = 2


class ImageError(RaveError):
    """An image that cannot be read, or whose size the model cannot take."""


class ConfigError(RaveError):
    """A configuration with unknown, missing or contradictory keys."""


class ModelError(RaveError):
    """A model directory or checkpoint that is missing, incomplete or not supported."""


class PromptError(RaveError):
    """A conversation that cannot be turned into a prompt: template, image count, context length."""


class MemoryLimitError(RaveError):
    """A request that needs more memory than there is."""
