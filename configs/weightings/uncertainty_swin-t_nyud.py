# VMT-Adapter with uncertainty weighting (UW, arXiv:1705.07115).
# Swin-T, NYUD-v2.
#   python tools/train.py configs/weightings/uncertainty_swin-t_nyud.py \
#       --cfg-options data_root=FOLDER pretrained=FILE
_base_ = '../vmt/vmt_swin-t_nyud.py'
model = dict(weighting=dict(type='Uncertainty'))
