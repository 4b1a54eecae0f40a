# NYUD-v2, four tasks, in the layout <root>/{images,semseg,depth,normals,edge}.
data_root = 'data/nyud_mt'
image_size = (576, 448)  # (width, height)
augment_on_device = False  # True: the GPU warps, in place of the loader's workers
tasks = dict(
    semseg=dict(type='Segmentation', num_classes=40),
    depth=dict(type='Depth', loss_weight=1.0),
    normals=dict(type='Normals', loss_weight=10.0),
    edge=dict(type='Edge', loss_weight=50.0, tolerance=0.011))  # NYUD's usual tolerance
reference = None  # no single-task scores to compare with, so no Delta

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadLabels'),
    dict(
        type='RandomWarp',
        size=image_size,
        rotate=(-20, 20),
        scale=(0.75, 1.25),
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
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,  # where there is a GPU
    drop_last=True,
    sampler=dict(type='SeededSampler', shuffle=True),
    dataset=dict(
        type='NYUDMT',
        data_root=data_root,
        ann_file='splits/train.txt',
        tasks=tasks,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=6,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,  # where there is a GPU
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='NYUDMT',
        data_root=data_root,
        ann_file='splits/val.txt',
        tasks=tasks,
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='MultiTaskEvaluator', tasks=tasks, metrics=[], reference=reference)
test_evaluator = val_evaluator
