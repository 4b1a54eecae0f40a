# Shared Adapter: a parallel adapter beside every MLP, one for all tasks.
#   python tools/train.py configs/baselines/shared_adapter_vit-s14_photos.py --cfg-options data_root=FOLDER pretrained=FILE
_base_ = '../vmt/vmt_vit-s14_photos.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='Adapter', ratio=2)))
