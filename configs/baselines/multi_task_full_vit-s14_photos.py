# Multi-task full fine-tuning: every parameter of one encoder trains.
#   python tools/train.py configs/baselines/multi_task_full_vit-s14_photos.py --cfg-options data_root=FOLDER pretrained=FILE
_base_ = '../vmt/vmt_vit-s14_photos.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='FullFineTuning')))
