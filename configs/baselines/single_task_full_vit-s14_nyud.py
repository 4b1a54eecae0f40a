# Single-task full fine-tuning: one model per task, selected by `task`. DINOv2 ViT-S/14, NYUD-v2.
#   python tools/train.py configs/baselines/single_task_full_vit-s14_nyud.py --cfg-options task=normals \
#       data_root=FOLDER pretrained=pretrain/vit_s14.safetensors
_base_ = './multi_task_full_vit-s14_nyud.py'
task = 'semseg'
