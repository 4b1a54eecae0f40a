# VMT-Adapter with the geometric loss strategy (GLS, arXiv:1904.08492).
# Swin-nano, rendered scenes.
#   python tools/train.py configs/weightings/gls_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(weighting=dict(type='GeometricMean'))
