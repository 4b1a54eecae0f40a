# SigLIP 2 ViT-B/16 (512 px). Weights (Apache-2.0):
# https://huggingface.co/timm/vit_base_patch16_siglip_512.v2_webli
# Save its model.safetensors under the name below. https://arxiv.org/abs/2502.14786
_base_ = '../models/timm_vit_mlp.py'
pretrained = 'pretrain/vit_base_patch16_siglip_512.v2_webli.safetensors'
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(model_name='vit_base_patch16_siglip_512.v2_webli'))
