# The embedded data set: rendered into data_root on first use, with exact labels.
data_root = 'data/shapes'
image_size = (112, 112)  # (width, height)
augment_on_device = False  # True: the GPU warps, in place of the loader's workers
render = dict(train=512, val=120, size=112, seed=0)
tasks = dict(
    semseg=dict(type='Segmentation', num_classes=8, loss_weight=4.0),
    human_parts=dict(type='Segmentation', num_classes=7, loss_weight=4.0, skip_background=True),
    saliency=dict(type='Saliency', loss_weight=5.0),
    normals=dict(type='Normals', loss_weight=5.0))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadLabels'),
    dict(
        type='RandomWarp',
        size=image_size,
        rotate=(-5, 5),
        scale=(0.9, 1.15),
        on_device=augment_on_device),
    dict(type='PackMultiTaskInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size),
    dict(type='LoadLabels'),  # labels keep their native size
    dict(type='PackMultiTaskInputs'),
]
train_dataloader = dict(
    num_workers=1,
    persistent_workers=True,
    pin_memory=True,  # where there is a GPU
    drop_last=True,
    sampler=dict(type='SeededSampler', shuffle=True),
    dataset=dict(
        type='ShapesMT',
        data_root=data_root,
        ann_file='splits/train.txt',
        tasks=tasks,
        render=render,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    pin_memory=True,  # where there is a GPU
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ShapesMT',
        data_root=data_root,
        ann_file='splits/val.txt',
        tasks=tasks,
        render=render,
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='MultiTaskEvaluator', tasks=tasks, metrics=[])
test_evaluator = val_evaluator
