# PASCAL-Context with four tasks: <root>/{images,semseg,human_parts,saliency,normals}.
_base_ = './multi_task.py'
data_root = 'data/pascal_mt'
image_size = (512, 512)  # (width, height)
tasks = dict(
    semseg=dict(type='Segmentation', num_classes=21),
    human_parts=dict(type='Segmentation', num_classes=7, loss_weight=2.0, skip_background=True),
    saliency=dict(type='Saliency', loss_weight=5.0),
    normals=dict(type='Normals', loss_weight=10.0))
# For Delta: single-task full fine-tuning of Swin-T (Table 2 of the paper).
reference = dict(semseg=67.21, human_parts=61.93, saliency=62.35, normals=17.97)

train_dataloader = dict(dataset=dict(type='PASCALContextMT'))
val_dataloader = dict(dataset=dict(type='PASCALContextMT'))
test_dataloader = val_dataloader
