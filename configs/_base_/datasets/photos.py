# Photographs, each with labels for some of four tasks, in the layout
# <root>/{images,semseg,human_parts,saliency,normals}: VOC's classes, and what people wear.
data_root = 'data/photos_mt'
image_size = (224, 224)  # (width, height)
augment_on_device = False  # True: the GPU warps, in place of the loader's workers
tasks = dict(
    semseg=dict(type='Segmentation', num_classes=21),
    human_parts=dict(type='Segmentation', num_classes=7, loss_weight=2.0),
    saliency=dict(type='Saliency', loss_weight=5.0),
    normals=dict(type='Normals', loss_weight=10.0))
metainfo = dict(
    semseg=dict(
        classes=('background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat',
                 'chair', 'cow', 'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant',
                 'sheep', 'sofa', 'train', 'tvmonitor')),
    human_parts=dict(
        classes=('background', 'hair or headwear', 'upper body clothes', 'dress',
                 'lower body clothes', 'legwear or shoes', 'skin')))

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
    num_workers=1,
    persistent_workers=True,
    pin_memory=True,  # where there is a GPU
    drop_last=True,
    sampler=dict(type='SeededSampler', shuffle=True),
    dataset=dict(
        type='MultiTaskDataset',
        data_root=data_root,
        ann_file='splits/train.txt',
        tasks=tasks,
        metainfo=metainfo,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    pin_memory=True,  # where there is a GPU
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='MultiTaskDataset',
        data_root=data_root,
        ann_file='splits/val.txt',
        tasks=tasks,
        metainfo=metainfo,
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='MultiTaskEvaluator', tasks=tasks, metrics=[])
test_evaluator = val_evaluator
