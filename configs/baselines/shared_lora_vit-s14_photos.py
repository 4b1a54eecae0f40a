# Shared LoRA: low-rank updates of queries, keys and values.
#   python tools/train.py configs/baselines/shared_lora_vit-s14_photos.py --cfg-options data_root=FOLDER pretrained=FILE
_base_ = '../_base_/vit-s14_photos.py'
model = dict(backbone=dict(peft=dict(type='LoRA', rank=5, targets=('q', 'k', 'v'))))
