# VMT-Adapter with FAMO (arXiv:2306.03792), which measures progress on the next batch.
# Swin-T, NYUD-v2.
#   python tools/train.py configs/weightings/famo_swin-t_nyud.py \
#       --cfg-options data_root=FOLDER pretrained=FILE
_base_ = '../vmt/vmt_swin-t_nyud.py'
model = dict(weighting=dict(type='FAMO'))
