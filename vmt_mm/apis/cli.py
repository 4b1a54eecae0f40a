"""How the tools end when the user's input is wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vmt_mm.errors import InputError


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Print an :class:`InputError` as one message, without a traceback, and exit with 1."""
    try:
        yield
    except InputError as error:
        # One raised in a data-loading process carries its traceback as text before the message.
        message = str(error).split("InputError: ")[-1].strip()
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)
