# VMT-Adapter with Aligned-MTL (arXiv:2305.19000).
# Swin-nano, rendered scenes. One backward pass through the backbone per task; needs `pip install torchjd`.
#   python tools/train.py configs/weightings/aligned-mtl_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(weighting=dict(type='GradientAggregation', aggregator='AlignedMTL'))
