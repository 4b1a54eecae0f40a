"""Labels and predictions of one image, for any set of tasks."""

from __future__ import annotations

from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor


class MultiTaskDataSample(BaseDataElement):
    """One image's labels ``gt_<task>`` and predictions ``pred_<task>``, each a ``PixelData``.

    Their ``data`` are (C, H, W). A task without a label has no ``gt_<task>``.

    Examples:
        >>> sample = MultiTaskDataSample(metainfo=dict(sample_id='0001'))
        >>> sample.set_label('semseg', torch.zeros(1, 4, 4, dtype=torch.uint8))
        >>> sample.gt_semseg.data.shape, sample.label('normals')
        (torch.Size([1, 4, 4]), None)
    """

    def set_label(self, task: str, values: Tensor) -> None:
        """Store the label (C, H, W) of ``task``."""
        self.set_field(PixelData(data=values), f"gt_{task}", dtype=PixelData)

    def set_prediction(self, task: str, values: Tensor) -> None:
        """Store the prediction (C, H, W) of ``task``."""
        self.set_field(PixelData(data=values), f"pred_{task}", dtype=PixelData)

    def label(self, task: str) -> Tensor | None:
        """Return the label (C, H, W) of ``task``, or None."""
        return self._values(f"gt_{task}")

    def prediction(self, task: str) -> Tensor | None:
        """Return the prediction (C, H, W) of ``task``, or None."""
        return self._values(f"pred_{task}")

    def pin_memory(self) -> MultiTaskDataSample:
        """Return a copy in pinned memory; data loaders with ``pin_memory=True`` call this."""
        pinned = self.new()
        for name, field in self.items():
            if isinstance(field, PixelData):
                pinned.set_field(PixelData(data=field.data.pin_memory()), name, dtype=PixelData)
        return pinned

    @property
    def is_stand_in(self) -> bool:
        """Whether the image is a black placeholder for a skipped one, without a real prediction."""
        return self.get("img_path") in (self.get("skipped") or {})

    def _values(self, field: str) -> Tensor | None:
        return self.get(field).data if field in self else None
