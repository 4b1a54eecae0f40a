# SideVMT: a branch next to a backbone that gets no gradient. DINOv2 ViT-S/14, photographs with partial labels.
#   python tools/train.py configs/vmt/side_vit-s14_photos.py --cfg-options data_root=FOLDER pretrained=pretrain/vit_s14.safetensors
_base_ = '../_base_/vit-s14_photos.py'
model = dict(backbone=dict(peft=dict(type='SideVMT')))
