# VMT-Adapter with ConFIG (arXiv:2408.11104).
# Swin-nano, rendered scenes. One backward pass through the backbone per task; needs `pip install torchjd`.
#   python tools/train.py configs/weightings/config_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(weighting=dict(type='GradientAggregation', aggregator='ConFIG'))
