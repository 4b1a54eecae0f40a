# VMT-Adapter (rho = 4, s = 0.5). SigLIP 2 ViT-B/16 (512 px), NYUD-v2.
#   tools/dist_train.sh configs/vmt/vmt_siglip2-b16_nyud.py 4
# Weights (Apache-2.0): https://huggingface.co/timm/vit_base_patch16_siglip_512.v2_webli
_base_ = ['../_base_/backbones/siglip2-b16.py', '../_base_/timm-vit_nyud.py']
model = dict(backbone=dict(peft=dict(type='VMTAdapter', ratio=4, gate=0.5)))
