# VMT-Adapter with random loss weighting (RLW, arXiv:2111.10603).
# Swin-T, NYUD-v2.
#   python tools/train.py configs/weightings/rlw_swin-t_nyud.py \
#       --cfg-options data_root=FOLDER pretrained=FILE
_base_ = '../vmt/vmt_swin-t_nyud.py'
model = dict(weighting=dict(type='RandomWeighting'))
