# VMT-Adapter with partial labels: half of the scenes have semseg and human parts, the other half
# saliency and normals; both are sampled equally often. Swin-nano, rendered scenes.
#   python tools/train.py configs/vmt/vmt_swin-nano_shapes_partly.py
_base_ = './vmt_swin-nano_shapes.py'
half = dict(type='ShapesMT', ann_file='splits/train.txt', pipeline=_base_.train_pipeline)
train_dataloader = dict(
    sampler=dict(balance='datasets'),  # or a list of weights, one per dataset
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            # lines 0, 2, 4, ... of the list, and lines 1, 3, 5, ...
            dict(half, part=(0, 2), tasks=['semseg', 'human_parts']),
            dict(half, part=(1, 2), tasks=['saliency', 'normals']),
        ]))
