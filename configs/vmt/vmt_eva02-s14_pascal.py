# VMT-Adapter (rho = 4, s = 0.5). EVA-02 ViT-S/14, PASCAL-Context.
#   tools/dist_train.sh configs/vmt/vmt_eva02-s14_pascal.py 4
# Weights (Apache-2.0): https://huggingface.co/Yuxin-CV/EVA-02/resolve/main/eva02/pt/eva02_S_pt_in21k_p14.pt
_base_ = ['../_base_/backbones/eva02-s14.py', '../_base_/timm-vit_pascal.py']
image_size = (518, 518)  # multiples of the patch size
model = dict(backbone=dict(peft=dict(type='VMTAdapter', ratio=4, gate=0.5)))
