# NYUD-v2 and photographs together, seven tasks; every image has labels of some of them. The folder
# `semseg` of NYUD-v2 is the task `rooms`, that of the photographs is `objects`.
# Images keep their aspect ratio: their longer and shorter sides are at most `image_size` times a
# random factor, and the network is trained on crops.
_base_ = './photos.py'  # before imports, by which mmengine tells kinds of configs apart
from vmt_mm.datasets import NYUDMT  # noqa: E402

image_size = (336, 252)
tasks = dict(
    _delete_=True,
    objects=dict(type='Segmentation', num_classes=21, folder='semseg', loss_weight=2.0),
    human_parts=dict(type='Segmentation', num_classes=7, loss_weight=4.0),
    saliency=dict(type='Saliency', loss_weight=5.0),
    rooms=dict(type='Segmentation', num_classes=40, folder='semseg'),
    depth=dict(type='Depth', max_depth=10.0, zoom_divides=True),  # metres, at `image_size`
    normals=dict(type='Normals', loss_weight=10.0),
    edge=dict(type='Edge', loss_weight=50.0, tolerance=0.011))  # NYUD's usual tolerance

# What the labels of one task say about another:
# - without a person there are no human parts;
# - in `rooms`, a person is a person, and an animal, a bottle, a plant or a vehicle is another prop;
#   furniture and background of the photographs have no label there;
# - in `objects`, rooms are background, people, chairs, sofas or screens; tables, desks and what is
#   only called `other` have no label.
voc, nyu = list(_base_.metainfo.semseg.classes), list(NYUDMT.METAINFO['semseg']['classes'])
same = dict(person='person', chair='chair', sofa='sofa', television='tvmonitor')
unsure = ('table', 'desk', 'other structure', 'other furniture', 'other prop')
furniture = ('background', 'chair', 'diningtable', 'sofa', 'tvmonitor')
without_person = [255 if c == 'person' else 0 for c in voc]
to_rooms = [
    nyu.index('person') if c == 'person' else 255 if c in furniture else nyu.index('other prop')
    for c in voc
]
to_objects = [
    voc.index(same[c]) if c in same else 255 if c in unsure else voc.index('background') for c in nyu
]
crop = (252, 252)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadLabels'),
    dict(type='DeriveLabel', task='human_parts', source='objects', classes=without_person),
    dict(type='DeriveLabel', task='rooms', source='objects', classes=to_rooms),
    dict(type='DeriveLabel', task='objects', source='rooms', classes=to_objects),
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
del NYUDMT, voc, nyu, same, unsure, furniture  # not settings
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
