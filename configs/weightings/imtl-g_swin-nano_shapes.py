# VMT-Adapter with IMTL-G (ICLR 2021, https://openreview.net/forum?id=IMPnRXEWpvr).
# Swin-nano, rendered scenes. One backward pass through the backbone per task; needs `pip install torchjd`.
#   python tools/train.py configs/weightings/imtl-g_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(weighting=dict(type='GradientAggregation', aggregator='IMTLG'))
