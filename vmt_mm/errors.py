"""Errors caused by user input."""

from collections.abc import Iterable


class InputError(ValueError):
    """Invalid user input. The message names the file, key or value and the rule that it breaks.

    The tools print only this message, without a traceback, and exit with a non-zero code.
    """


class CorruptFileError(InputError):
    """A data file that cannot be read; with ``on_error='skip'`` a dataset skips it."""


def refuse_unread(kind: type, given: Iterable[str]) -> None:
    """Raise InputError for arguments that a class inherits, or users expect, but does not read.

    Args:
        kind: the class; its ``unread`` maps each such argument to what to use instead.
        given: names of the arguments.
    """
    for name in given:
        if name in kind.unread:
            raise InputError(f"{kind.__name__}: unknown argument {name!r}; {kind.unread[name]}")
