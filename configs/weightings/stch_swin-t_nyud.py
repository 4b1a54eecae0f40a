# VMT-Adapter with smooth Tchebycheff scalarization (STCH, arXiv:2402.19078).
# Swin-T, NYUD-v2.
#   python tools/train.py configs/weightings/stch_swin-t_nyud.py \
#       --cfg-options data_root=FOLDER pretrained=FILE
_base_ = '../vmt/vmt_swin-t_nyud.py'
model = dict(weighting=dict(type='SmoothTchebycheff'))
