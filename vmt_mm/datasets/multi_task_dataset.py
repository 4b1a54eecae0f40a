"""Any set of dense tasks from one folder layout."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from vmt_mm.datasets.cache import SampleCache
from vmt_mm.datasets.sampler import SeededIndex, random_state_of
from vmt_mm.datasets.transforms import LoadImageFromFile
from vmt_mm.datasets.transforms.unfit import refuse_unfit
from vmt_mm.errors import CorruptFileError, InputError, refuse_unread
from vmt_mm.registry import DATASETS, own_scope
from vmt_mm.tasks import build_tasks
from vmt_mm.utils.files import check_outputs
from vmt_mm.utils.layout import (
    IMAGE_SUFFIXES,
    Listing,
    leads_outside,
    list_files,
    read_ids,
)


@DATASETS.register_module()
class MultiTaskDataset(BaseDataset):
    """Images with labels for any subset of the tasks.

    Layout: ``<root>/images/<id>.jpg|png``, ``<root>/<task>/<id>.png`` for every task, and a list
    of ids, one per line, in ``<root>/splits/<split>.txt``. A missing label file means that the
    image has no label for that task. Label files that belong to no image are named in a warning.

    Args:
        data_root: the folder.
        ann_file: the list of ids, relative to ``data_root``.
        tasks: name -> task config (or built task); the model's tasks or a subset of them.
        metainfo: per task ``dict(classes=..., palette=...)``.
        pipeline: transforms.
        test_mode: whether a sample that a transform drops is an error.
        damaged: what to do with files that cannot be used: 'abort', or 'skip' them. A damaged label
            then counts as missing; in place of a damaged image another one is drawn in training,
            while in a test it takes part without labels, so that images are still counted right.
            ``LabelReportHook`` lists what was skipped.
        part: (k, n) takes every n-th id of the list, from the k-th on, k = 0, ..., n - 1; None
            takes all.
        id_prefix: a folder's name that is put before the samples' ids, so that samples of
            several data sets stay apart where files are named by them.
        cache: folder of a cache of the decoded files, see :class:`SampleCache`; True takes
            ``<data_root>/cache``; None keeps none.
        kwargs: ``indices``, ``serialize_data``, ``lazy_init``, ``max_refetch``, see
            ``mmengine.dataset.BaseDataset``.

    Raises:
        InputError: if the root, a task's folder, the list or an image is missing, files of a task
            belong to no image and no image of the list has one, the part is none or empty, class
            names do not fit, or a transform of another library would leave the labels behind.
    """

    #: Arguments of mmengine's and mmseg's data sets that nothing here reads -> what to use.
    unread: ClassVar[Mapping[str, str]] = dict(
        data_prefix="images lie in <data_root>/images, labels in <data_root>/<task>",
        filter_cfg="list the samples to use in `ann_file`",
        img_suffix="images of every format that is read are found by their ids",
        seg_map_suffix="labels are found by their ids; a task may say its `suffix`",
        reduce_zero_label="set it for the task, tasks.<name>.reduce_zero_label",
        ignore_index="255 is ignored in every label of classes",
        gt_seg_map_loader_cfg="LoadLabels reads labels as their tasks say",
    )

    def __init__(
        self,
        data_root: str | Path,
        tasks: Mapping[str, Mapping],
        ann_file: str | Path = "splits/train.txt",
        metainfo: Mapping | None = None,
        pipeline: Sequence[Any] = (),
        test_mode: bool = False,
        damaged: str = "abort",
        part: Sequence[int] | None = None,
        id_prefix: str = "",
        cache: str | Path | bool | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_unread(MultiTaskDataset, kwargs)
        data_root, ann_file = os.path.expanduser(data_root), os.path.expanduser(ann_file)
        if damaged not in ("abort", "skip"):
            raise InputError(f"{data_root}: `damaged` must be 'abort' or 'skip', got {damaged!r}")
        if not isinstance(cache, (str, Path, bool, type(None))) or cache == "":
            raise InputError(
                f"{data_root}: `cache` must be a folder, True, or None for no cache, got {cache!r}"
            )
        self.skip_damaged = damaged == "skip"
        self.part = _checked_part(part, data_root)
        if not isinstance(id_prefix, str) or leads_outside(id_prefix):
            raise InputError(
                f"{data_root}: `id_prefix` must be a folder's name, below which outputs go, got "
                f"{id_prefix!r}"
            )
        self.id_prefix = f"{Path(id_prefix).as_posix()}/" if id_prefix else ""
        self.cache = cache
        self._stored: SampleCache | None = None
        problem = self.find_problem(data_root, ann_file)
        if problem:
            raise InputError(problem)
        self.tasks = build_tasks(tasks)
        self.label_specs = {name: task.label for name, task in self.tasks.items()}
        with own_scope():  # of the pipeline's transforms
            super().__init__(
                ann_file=ann_file,
                metainfo=metainfo,
                data_root=data_root,
                pipeline=list(pipeline),
                test_mode=test_mode,
                **kwargs,
            )
        refuse_unfit(self.pipeline.transforms, str(data_root))
        for name, task in self.tasks.items():
            meta = self.metainfo.get(name, {})
            if not isinstance(meta, Mapping):
                raise InputError(
                    f"{data_root}: metainfo of task {name!r} must be dict(classes=..., "
                    f"palette=...), got {meta!r}"
                )
            task.check_metainfo(meta, str(data_root))
        self._check_metainfo(metainfo or {})

    def _check_metainfo(self, given: Mapping) -> None:
        """Refuse what nothing reads; classes of tasks that are left out here may stay."""
        without = [name for name in self.tasks if name not in self.metainfo]
        for name, meta in given.items():
            rule = f"{self.data_root}: metainfo is by task, dict(<task>=dict(classes=, palette=))"
            if not isinstance(meta, Mapping):
                raise InputError(f"{rule}; nothing reads {name!r}")
            if name not in self.tasks and (near := get_close_matches(name, without, 1)):
                raise InputError(f"{rule}; no task is named {name!r}; did you mean {near[0]!r}?")
            for key in set(meta) - {"classes", "palette"}:
                if near := get_close_matches(str(key).lower(), ("classes", "palette"), 1):
                    raise InputError(
                        f"{rule}; of {name!r} nothing reads {key!r}; did you mean {near[0]!r}?"
                    )

    @classmethod
    def find_problem(cls, data_root: str, ann_file: str = "splits/train.txt") -> str | None:
        """Say in one line what a data set needs that is not there; None if all is."""
        data_root, ann_file = os.path.expanduser(data_root), os.path.expanduser(ann_file)
        layout = "images/<id>.jpg, <task>/<id>.png and splits/{train,val}.txt"
        if not Path(data_root).is_dir():
            return (
                f"data_root {str(data_root)!r} is not a folder: expected a data set there with "
                f"{layout}; set it with --cfg-options data_root=FOLDER"
            )
        if not (Path(data_root) / ann_file).is_file():
            return f"{Path(data_root) / ann_file}: no such list of ids; the layout is {layout}"
        return None

    def full_init(self) -> None:
        """List the samples; open, or write, their cache."""
        if self._fully_initialized:
            return
        super().full_init()
        if not self.cache:
            return
        readers = [t for t in self.pipeline.transforms if isinstance(t, LoadImageFromFile)]
        if not readers:
            raise InputError(f"{self.ann_file}: `cache` needs LoadImageFromFile in the pipeline")
        folder = (
            Path(self.data_root, "cache") if self.cache is True else Path(self.cache).expanduser()
        )
        read = [Path(self.data_root, part) for part in ("images", "splits", *self.label_specs)]
        check_outputs(dict(cache=folder), read)
        self._stored = SampleCache(
            folder,
            Path(self.ann_file).stem,
            [self.get_data_info(index) for index in range(len(self))],
            self.label_specs,
            readers[0].read,
            readers[0].settings,
        )

    def load_data_list(self) -> list[dict]:
        """List the split's samples: ``img_path``, ``sample_id`` and ``label_paths`` by task."""
        root = Path(self.data_root)
        first, step = self.part
        listed = read_ids(Path(self.ann_file))
        ids = listed[first::step]
        if not ids:
            raise InputError(f"{self.ann_file}: part {first} of {step} of {len(listed)} is empty")
        listing = list_files(root / "images", IMAGE_SUFFIXES)
        images = listing.files
        unknown = [i for i in ids if i not in images]
        if unknown:
            raise InputError(
                f"{self.ann_file}: {len(unknown)} id(s) without an image in {root / 'images'}, "
                f"the first is {unknown[0]!r}{listing.near(unknown[0])}"
            )
        labels = {
            name: self._list_labels(root / name, spec.suffixes, ids, images)
            for name, spec in self.label_specs.items()
        }
        return [
            dict(
                sample_id=self.id_prefix + i,
                img_path=images[i],
                label_paths={name: of.files[i] for name, of in labels.items() if i in of.files},
            )
            for i in ids
        ]

    def _list_labels(
        self, folder: Path, suffixes: tuple[str, ...], ids: Sequence[str], images: Mapping[str, str]
    ) -> Listing:
        """List a task's files; say which belong to no image, refuse those that no id fits."""
        if not folder.is_dir():
            raise InputError(
                f"{folder}: no folder with the labels of task {folder.name!r}; leave the task "
                "out of this data set's `tasks`, or make the folder if no image has a label"
            )
        listing = list_files(folder, suffixes)
        unused, matched = listing.unused(images), any(i in listing.files for i in ids)
        said = f"{self.ann_file}: no id has a label of task {folder.name!r}"
        if unused and not matched:
            raise InputError(f"{said}. {unused}")
        if unused:
            print_log(f"{unused}. Their images count as not labelled", "current", logging.WARNING)
        elif listing.files and not matched:
            text = f"{said}; the {len(listing.files)} file(s) in {folder} are of other images"
            print_log(text, "current", logging.WARNING)
        return listing

    def get_cat_ids(self, idx: int) -> list[int]:
        """Refuse mmengine's ``ClassBalancedDataset``, which asks for the classes of an image."""
        raise InputError(
            f"{self.ann_file}: ClassBalancedDataset needs the classes of an image, which several "
            "tasks do not have; use ConcatDataset with SeededSampler(balance=[...])"
        )

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on one sample; a :class:`SeededIndex` decides its random numbers."""
        damaged: dict[str, str] = {}
        for _ in range(self.max_refetch + 1):
            results = self._run_pipeline(idx, damaged)
            if results is not None or self.test_mode:
                return results
            idx = idx.another(len(self)) if isinstance(idx, SeededIndex) else self._rand_another()
        raise InputError(
            f"{self.ann_file}: {self.max_refetch + 1} samples in a row could not be used"
            + "".join(f"; {reason}" for reason in list(damaged.values())[:3])
        )

    def _run_pipeline(self, idx: int, damaged: dict[str, str]) -> Any:
        """One sample, or None where it cannot be used; notes skipped files in ``damaged``."""
        with random_state_of(idx):
            info = self.get_data_info(int(idx))
            info.update(
                label_specs=self.label_specs,
                skip_damaged=self.skip_damaged,
                damaged=damaged,
                stored=self._stored[info["sample_id"]] if self._stored else None,
            )
            try:
                return self.pipeline(dict(info))
            except CorruptFileError as error:
                if not self.skip_damaged:
                    raise
                damaged[info["img_path"]] = str(error)
                if not self.test_mode:
                    return None
            return self.pipeline(dict(info, stand_in=True, label_paths={}))


def _checked_part(part: Sequence[int] | None, data_root: str) -> tuple[int, int]:
    """(first, step) of the ids that a part takes."""
    if part is None:
        return 0, 1
    numbers = tuple(part) if isinstance(part, (list, tuple)) else ()
    if [type(n) for n in numbers] != [int, int] or not 0 <= numbers[0] < numbers[1]:
        raise InputError(
            f"{data_root}: `part` must be (k, n), whole numbers with 0 <= k < n, got {part!r}"
        )
    return numbers
