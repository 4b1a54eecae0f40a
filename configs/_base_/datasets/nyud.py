# NYUD-v2 with four tasks: <root>/{images,semseg,depth,normals,edge}.
_base_ = './multi_task.py'
data_root = 'data/nyud_mt'
image_size = (576, 448)  # (width, height)
tasks = dict(
    semseg=dict(type='Segmentation', num_classes=40),
    depth=dict(type='Depth', loss_weight=1.0),
    normals=dict(type='Normals', loss_weight=10.0),
    edge=dict(type='Edge', loss_weight=50.0, tolerance=0.011))  # NYUD's usual tolerance
reference = None  # no single-task scores, so no Delta

train_dataloader = dict(dataset=dict(type='NYUDMT'))
val_dataloader = dict(dataset=dict(type='NYUDMT'))
test_dataloader = val_dataloader
