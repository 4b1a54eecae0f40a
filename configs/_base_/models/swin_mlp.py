# A frozen Swin with one All-MLP head per task. The config adds tasks, weights and PEFT method.
model = dict(
    type='MultiTaskSegmentor',
    data_preprocessor=dict(
        type='MultiTaskDataPreprocessor',
        non_blocking=True,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    backbone=dict(type='MultiTaskSwin', arch='tiny'),
    head=dict(type='MLPHead', channels=256))
