# VMT-Adapter with MGDA (arXiv:1810.04650).
# Swin-T, NYUD-v2. One backward pass through the backbone per task; needs `pip install torchjd`.
#   python tools/train.py configs/weightings/mgda_swin-t_nyud.py \
#       --cfg-options data_root=FOLDER pretrained=FILE
_base_ = '../vmt/vmt_swin-t_nyud.py'
model = dict(weighting=dict(type='GradientAggregation', aggregator='MGDA'))
