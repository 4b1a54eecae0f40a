# NYUD-v2 and photographs together, seven tasks; every image has labels of some of them. The folder
# `semseg` of NYUD-v2 is the task `rooms`, that of the photographs is `objects`.
# Images keep their aspect ratio: their longer and shorter sides are at most `image_size` times a
# random factor, and the network is trained on crops.
_base_ = './photos.py'  # before imports, by which mmengine tells kinds of configs apart
from vmt_mm.datasets import NYUDMT  # noqa: E402

image_size = (336, 252)
tasks = dict(
    _delete_=True,
    objects=dict(type='Segmentation', num_classes=21, folder='semseg'),
    human_parts=dict(type='Segmentation', num_classes=7, loss_weight=5.0),
    saliency=dict(type='Saliency', loss_weight=5.0),
    rooms=dict(type='Segmentation', num_classes=40, folder='semseg'),
    depth=dict(type='Depth', max_depth=10.0, zoom_divides=True),  # metres, at `image_size`
    normals=dict(type='Normals', loss_weight=10.0),
    edge=dict(type='Edge', loss_weight=50.0, tolerance=0.011))  # NYUD's usual tolerance

# What the labels of one task say about another: where there is no person, there are no human parts;
# a person, chair, sofa, table or screen is one in `rooms` too.
no_person = [255 if c == 15 else 0 for c in range(21)]
no_person_nyu = [255 if c == 30 else 0 for c in range(40)]
to_rooms = [{9: 4, 11: 6, 15: 30, 18: 5, 20: 24}.get(c, 255) for c in range(21)]
crop = (252, 252)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadLabels'),
    dict(type='DeriveLabel', task='human_parts', source='objects', classes=no_person),
    dict(type='DeriveLabel', task='human_parts', source='rooms', classes=no_person_nyu),
    dict(type='DeriveLabel', task='rooms', source='objects', classes=to_rooms),
    dict(type='RandomResize', ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', size=crop),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=crop, pad_val=dict(img=(104, 116, 124))),  # ImageNet's mean colour
    dict(type='PackMultiTaskInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', keep_ratio=True),
    dict(type='LoadLabels'),  # labels keep their native size
    dict(type='PackMultiTaskInputs'),
]
nyud = dict(
    type='MultiTaskDataset',
    data_root='data/nyud',
    tasks=['rooms', 'depth', 'normals', 'edge'],
    metainfo=dict(rooms=NYUDMT.METAINFO['semseg']))
photos = dict(
    type='MultiTaskDataset',
    data_root='data/photos_mt',
    tasks=['objects', 'human_parts', 'saliency', 'normals'],
    metainfo=dict(objects=_base_.metainfo.semseg, human_parts=_base_.metainfo.human_parts))
del NYUDMT  # a config has no classes
train = dict(ann_file='splits/train.txt', pipeline=train_pipeline)
val = dict(ann_file='splits/val.txt', pipeline=test_pipeline, test_mode=True)

# 768 images of each dataset per epoch, about as many as each has
train_dataloader = dict(
    sampler=dict(balance='datasets', length=1536),
    dataset=dict(
        _delete_=True, type='ConcatDataset', datasets=[dict(nyud, **train), dict(photos, **train)]))
# The normals of the photographs are of one kitchen, which is also in the training set: only those
# of NYUD-v2 are scored.
scored = ['objects', 'human_parts', 'saliency']
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[dict(nyud, **val), dict(photos, **{**val, 'tasks': scored})]))
test_dataloader = val_dataloader
