# VMT-Adapter with PCGrad (arXiv:2001.06782).
# Swin-T, NYUD-v2. One backward pass through the backbone per task; needs `pip install torchjd`.
#   python tools/train.py configs/weightings/pcgrad_swin-t_nyud.py \
#       --cfg-options data_root=FOLDER pretrained=FILE
_base_ = '../vmt/vmt_swin-t_nyud.py'
model = dict(weighting=dict(type='GradientAggregation', aggregator='PCGrad'))
