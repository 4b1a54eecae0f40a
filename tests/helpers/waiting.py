"""Wait for events, not for seconds: a busy machine may be many times slower than an idle one."""

import socket
import time
from collections.abc import Callable
from typing import Any

#: Timeout in seconds: far more than anything here takes on a busy machine.
PATIENCE = 500


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait until a condition is true or time runs out; return its last value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


def free_port() -> str:
    """A free port of this machine for a process group."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])
