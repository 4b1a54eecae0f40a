# Mona (arXiv:2408.08345): adapters with convolutions in the stream, shared by all tasks, with the
# authors' initial values. DINOv2 ViT-S/14, NYUD-v2.
#   python tools/train.py configs/peers/mona_vit-s14_nyud.py \
#       --cfg-options data_root=FOLDER pretrained=pretrain/vit_s14.safetensors
_base_ = '../_base_/vit-s14_nyud.py'
model = dict(backbone=dict(peft=dict(type='Mona', zero_init=False)))
