# A frozen plain ViT with one All-MLP head per task. The config adds tasks, weights and PEFT method.
# Settings of DINOv2's ViT-S/14: LayerScale, position embeddings for 518 px.
model = dict(
    type='MultiTaskSegmentor',
    data_preprocessor=dict(
        type='MultiTaskDataPreprocessor',
        non_blocking=True,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    backbone=dict(
        type='MultiTaskViT',
        arch='dinov2-small',
        img_size=518,
        patch_size=14,
        layer_scale_init_value=1e-5),
    head=dict(type='MLPHead', channels=256))
