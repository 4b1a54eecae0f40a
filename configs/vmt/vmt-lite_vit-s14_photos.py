# VMT-Adapter-Lite with m = 3, rho = 4 on a frozen DINOv2 ViT-S/14.
#   python tools/train.py configs/vmt/vmt-lite_vit-s14_photos.py --cfg-options data_root=FOLDER pretrained=FILE
_base_ = './vmt_vit-s14_photos.py'
model = dict(
    backbone=dict(peft=dict(_delete_=True, type='VMTAdapterLite', m=3, ratio=4, gate=0.5)))
