"""Errors that are the user's to mend."""

from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: the message names the file, key or value, and the rule it breaks.

    The tools print the message alone, without a traceback, and exit with a non-zero code.
    """


class CorruptFileError(InputError):
    """A data file that cannot be used; a data set may be told to skip it."""


def refuse_unread(kind: type, given: Iterable[str]) -> None:
    """Raise InputError for arguments that a class inherits, or its users expect, and never reads.

    Args:
        kind: its ``unread`` maps their names to what to use.
        given: names of the arguments.
    """
    for name in given:
        if name in kind.unread:
            raise InputError(f"{kind.__name__} takes no {name!r}; {kind.unread[name]}")
