"""Replace ``mmcv._ext``, mmcv's compiled operators, in an environment without them.

``make test-original`` copies this file there. mmsegmentation imports operators that neither it nor
this project calls for the models here; what calls one gets an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Functions that mmcv calls to report the environment.
_VERSIONS = ("get_compiler_version", "get_compiling_cuda_version")


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)

    def operator(*args: Any, **kwargs: Any) -> str:
        if name in _VERSIONS:
            return "not compiled"
        raise NotImplementedError(f"mmcv's operator {name} is not compiled in this environment")

    return operator
