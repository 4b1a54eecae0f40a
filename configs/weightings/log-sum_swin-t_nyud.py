# VMT-Adapter with the sum of the losses' logarithms.
# Swin-T, NYUD-v2.
#   python tools/train.py configs/weightings/log-sum_swin-t_nyud.py \
#       --cfg-options data_root=FOLDER pretrained=FILE
_base_ = '../vmt/vmt_swin-t_nyud.py'
model = dict(weighting=dict(type='LogSum'))
