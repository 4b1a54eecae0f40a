"""Several versions of one image in a test."""

from __future__ import annotations

import mmcv.transforms

from vmt_mm.registry import TRANSFORMS, own_scope


@TRANSFORMS.register_module()
class TestTimeAug(mmcv.transforms.TestTimeAug):
    """mmcv's ``TestTimeAug``, in whose versions labels may be loaded after a flip.

    Labels stay as they are, and the model turns its outputs back: ``flip`` is in the metainfo.

    Args:
        transforms: lists of alternatives; every combination of them is one version.
    """

    __test__ = False  # for pytest, which goes by names

    def __init__(self, transforms: list) -> None:
        with own_scope():
            super().__init__([list(alternatives) for alternatives in transforms])

    def transform(self, results: dict) -> dict:
        """Make the versions: every entry becomes a list."""
        return super().transform(dict(results, turned_back=True))
