# VMT-Adapter with different heads: HRNet-style for saliency, mmseg's SegFormer head for human
# parts, All-MLP for the others. Swin-nano, rendered scenes.
#   python tools/train.py configs/vmt/vmt_swin-nano_shapes_mixed-heads.py
_base_ = './vmt_swin-nano_shapes.py'
model = dict(
    task_heads=dict(
        saliency=dict(type='HRNetHead'),
        human_parts=dict(
            type='mmseg.SegformerHead', channels=64, norm_cfg=dict(type='BN'))))
