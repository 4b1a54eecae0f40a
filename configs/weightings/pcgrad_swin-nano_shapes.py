# VMT-Adapter with PCGrad (arXiv:2001.06782).
# Swin-nano, rendered scenes. One backward pass through the backbone per task; needs `pip install torchjd`.
#   python tools/train.py configs/weightings/pcgrad_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(weighting=dict(type='GradientAggregation', aggregator='PCGrad'))
