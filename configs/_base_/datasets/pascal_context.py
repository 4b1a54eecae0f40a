# PASCAL-Context, four tasks, in the layout <root>/{images,semseg,human_parts,saliency,normals}.
data_root = 'data/pascal_mt'
image_size = (512, 512)  # (width, height)
augment_on_device = False  # True: the GPU warps, in place of the loader's workers
tasks = dict(
    semseg=dict(type='Segmentation', num_classes=21),
    human_parts=dict(type='Segmentation', num_classes=7, loss_weight=2.0, skip_background=True),
    saliency=dict(type='Saliency', loss_weight=5.0),
    normals=dict(type='Normals', loss_weight=10.0))
# Single-task full fine-tuning of Swin-T in the paper's Table 2: what Delta compares with.
reference = dict(semseg=67.21, human_parts=61.93, saliency=62.35, normals=17.97)

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
        type='PASCALContextMT',
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
        type='PASCALContextMT',
        data_root=data_root,
        ann_file='splits/val.txt',
        tasks=tasks,
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='MultiTaskEvaluator', tasks=tasks, metrics=[], reference=reference)
test_evaluator = val_evaluator
