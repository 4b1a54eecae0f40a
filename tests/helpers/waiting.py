"""Wait for events, not for seconds: a busy machine may take many times as long as an idle one."""

import socket
import time
from collections.abc import Callable
from typing import Any

#: Seconds after which something hangs: far more than anything here takes on a busy machine.
PATIENCE = 500


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait until a condition holds; return what it gave, the last time, where the time ran out."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


def free_port() -> str:
    """A port of this machine at which processes can meet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])
