"""Cache parsed config files of the repository and of mmseg: a test run loads hundreds.

``tests/conftest.py`` imports the fixture.
"""

import copy
import os
from pathlib import Path

import mmseg
import pytest
from mmengine.config import Config

_FOLDERS = {Path(__file__).parents[2] / "configs", Path(mmseg.__file__).parent / ".mim/configs"}


@pytest.fixture(autouse=True, scope="session")
def configs_read_once():
    """Cache what mmengine reads: for every file, it creates, fills and deletes a folder."""
    read, found = Config._file2dict, {}

    def read_once(filename, *args, **kwargs):
        path = os.path.abspath(os.path.expanduser(filename))
        if _FOLDERS.isdisjoint(Path(path).parents):
            return read(filename, *args, **kwargs)
        key = (path, args, *kwargs.items())
        if key not in found:
            found[key] = read(filename, *args, **kwargs)
        return copy.deepcopy(found[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, "_file2dict", staticmethod(read_once))
        yield
