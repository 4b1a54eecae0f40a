"""Print errors of a tool as one message and exit."""

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

#: Errors of gloo and nccl after another process has ended.
_PEER_GONE = re.compile(r"[Cc]onnection (closed|reset) by (remote )?peer")
#: Errors of missing or inaccessible paths.
_WRONG_PATH = {errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR}
_WRONG_PATH |= {errno.EPERM, errno.EROFS}


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Print InputError, path errors and a full disk as one message, and exit with 1."""
    logging.raiseExceptions = False  # else errors of the log file would bury the message
    try:
        yield
    except InputError as error:
        # An error of a data-loading process has its traceback as text before the message.
        _fail(re.split(r"(?:InputError|CorruptFileError): ", str(error))[-1].strip())
    except OSError as error:
        if error.errno in _WRONG_PATH and error.filename:
            _fail(f"{error.filename}: {error.strerror}")
        if error.errno not in DISK_FULL:
            raise
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"the disk is full{where}: free some space, then resume training with --resume")
    except RuntimeError as error:
        if not _PEER_GONE.search(str(error)):
            raise
        _fail("another process of this run failed; see its message")


def _fail(message: str) -> NoReturn:
    """Exit; print the message unless another process of the group has printed it."""
    first = True
    if dist.is_initialized():
        try:
            key = f"said/{hashlib.sha1(message.encode()).hexdigest()}"
            first = dist.distributed_c10d._get_default_store().add(key, 1) == 1
        except (RuntimeError, AttributeError):  # its process ended, or PyTorch hides it
            pass
    if first:
        print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(1)
