# A frozen plain ViT of timm (extra `timm`) with one All-MLP head per task. A file of
# `_base_/backbones` names the model and its weights; the config adds tasks and PEFT method.
# Mean and standard deviation of ImageNet, which the DINO models use.
model = dict(
    type='MultiTaskSegmentor',
    data_preprocessor=dict(
        type='MultiTaskDataPreprocessor',
        non_blocking=True,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    backbone=dict(type='MultiTaskTimmViT', out_indices=(2, 5, 8, 11)),
    head=dict(type='MLPHead', channels=256))
