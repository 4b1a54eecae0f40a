"""How a tool ends when something is wrong."""

from __future__ import annotations

import errno
import hashlib
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch.distributed as dist

from vmt_mm.errors import InputError
from vmt_mm.utils.files import DISK_FULL

#: How gloo and nccl say that the other end of a connection has gone.
_PEER_GONE = re.compile(r"[Cc]onnection (closed|reset) by (remote )?peer")
#: Errors of a path that leads nowhere or may not be used.
_WRONG_PATH = {errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR}
_WRONG_PATH |= {errno.EPERM, errno.EROFS}


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Print an error of the user, of a path, or of a full disk as one message, and exit with 1."""
    logging.raiseExceptions = False  # a log that cannot be written must not bury the message
    try:
        yield
    except InputError as error:
        # One raised in a data-loading process carries its traceback as text before the message.
        _fail(re.split(r"(?:InputError|CorruptFileError): ", str(error))[-1].strip())
    except OSError as error:
        if error.errno in _WRONG_PATH and error.filename:
            _fail(f"{error.filename}: {error.strerror}")
        if error.errno not in DISK_FULL:
            raise
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"the disk is full{where}: make room, and use --resume if this was a training")
    except RuntimeError as error:
        if not _PEER_GONE.search(str(error)):
            raise
        _fail("another process of this run ended; see its message")


def _fail(message: str) -> NoReturn:
    """Exit; print the message unless another process of the group has printed the same."""
    first = True
    if dist.is_initialized():
        try:
            key = f"said/{hashlib.sha1(message.encode()).hexdigest()}"
            first = dist.distributed_c10d._get_default_store().add(key, 1) == 1
        except (RuntimeError, AttributeError):  # its keeper has gone, or a later PyTorch hides it
            pass
    if first:
        print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(1)
