# No training image has all labels: one half of the scenes has classes and human parts, the other
# saliency and normals. Both halves are drawn equally often; every task is validated.
#   python tools/train.py configs/vmt/vmt_swin-nano_shapes_partly.py
_base_ = './vmt_swin-nano_shapes.py'
half = dict(type='ShapesMT', ann_file='splits/train.txt', pipeline=_base_.train_pipeline)
train_dataloader = dict(
    sampler=dict(balance='datasets'),  # or a list of weights, one a data set
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            # ids 0, 2, 4, ... of the list, and ids 1, 3, 5, ...
            dict(half, part=(0, 2), tasks=['semseg', 'human_parts']),
            dict(half, part=(1, 2), tasks=['saliency', 'normals']),
        ]))
