# Pipelines, loaders and evaluators shared by all datasets. A dataset file adds the dataset type and
# the top-level keys `data_root`, `image_size`, `tasks` and `reference`.
augment_on_device = False  # True: warp on the GPU, not in the workers

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadLabels'),
    dict(type='RandomWarp', rotate=(-20, 20), scale=(0.75, 1.25)),
    dict(type='PackMultiTaskInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize'),
    dict(type='LoadLabels'),  # labels keep their native size
    dict(type='PackMultiTaskInputs'),
]
train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,  # only if there is a GPU
    drop_last=True,
    sampler=dict(type='SeededSampler', shuffle=True),
    dataset=dict(
        type='MultiTaskDataset', ann_file='splits/train.txt', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=6,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,  # only if there is a GPU
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='MultiTaskDataset',
        ann_file='splits/val.txt',
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='MultiTaskEvaluator', metrics=[])
test_evaluator = val_evaluator
