# VMT-Adapter with the geometric loss strategy (GLS, arXiv:1904.08492).
# Swin-T, NYUD-v2.
#   python tools/train.py configs/weightings/gls_swin-t_nyud.py \
#       --cfg-options data_root=FOLDER pretrained=FILE
_base_ = '../vmt/vmt_swin-t_nyud.py'
model = dict(weighting=dict(type='GeometricMean'))
