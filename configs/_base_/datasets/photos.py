# Photographs with partial labels of four tasks: <root>/{images,semseg,human_parts,saliency,normals}.
# semseg has the classes of VOC, human_parts has clothing classes.
_base_ = './multi_task.py'
data_root = 'data/photos_mt'
image_size = (224, 224)  # (width, height)
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

train_dataloader = dict(num_workers=1, dataset=dict(metainfo=metainfo))
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(metainfo=metainfo))
test_dataloader = val_dataloader
