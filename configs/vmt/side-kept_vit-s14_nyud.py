# SideVMT with kept features: two augmentations per image, whose maps stay on disk after the first
# time (0.8 MB each at 252 x 196, in work_dirs/features). DINOv2 ViT-S/14, NYUD-v2.
#   python tools/train.py configs/vmt/side-kept_vit-s14_nyud.py \
#       --cfg-options data_root=FOLDER pretrained=pretrain/vit_s14.safetensors
_base_ = './side_vit-s14_nyud.py'
model = dict(feature_cache=dict(folder='work_dirs/features'))
train_dataloader = dict(sampler=dict(views=2))
