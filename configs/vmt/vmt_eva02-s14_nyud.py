# VMT-Adapter (rho = 4, s = 0.5). EVA-02 ViT-S/14, NYUD-v2.
#   tools/dist_train.sh configs/vmt/vmt_eva02-s14_nyud.py 4
# Weights (Apache-2.0): https://huggingface.co/Yuxin-CV/EVA-02/resolve/main/eva02/pt/eva02_S_pt_in21k_p14.pt
_base_ = ['../_base_/backbones/eva02-s14.py', '../_base_/timm-vit_nyud.py']
image_size = (574, 448)  # multiples of the patch size
model = dict(backbone=dict(peft=dict(type='VMTAdapter', ratio=4, gate=0.5)))
