# EVA-02 ViT-S/14. Weights (Apache-2.0):
# https://huggingface.co/Yuxin-CV/EVA-02/resolve/main/eva02/pt/eva02_S_pt_in21k_p14.pt
# Masked image modelling on ImageNet-21k, which the authors' segmentation models start from, without
# fine-tuning to classify. With global_pool='token', timm's model has the final norm of this file.
# https://arxiv.org/abs/2303.11331. Mean and standard deviation of CLIP.
_base_ = '../models/timm_vit_mlp.py'
pretrained = 'pretrain/eva02_S_pt_in21k_p14.pt'
model = dict(
    data_preprocessor=dict(
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305]),
    backbone=dict(model_name='eva02_small_patch14_224', model_kwargs=dict(global_pool='token')))
