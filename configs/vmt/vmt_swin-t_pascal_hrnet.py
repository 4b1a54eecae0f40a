# VMT-Adapter (rho = 4, s = 0.5) with HRNet-style heads (Fig. 5b). Swin-T, PASCAL-Context. For
# Delta, set reference=dict(semseg=..., ...) to the scores of single-task full fine-tuning with the
# same heads (not in the paper).
#   tools/dist_train.sh configs/vmt/vmt_swin-t_pascal_hrnet.py 4
_base_ = './vmt_swin-t_pascal.py'
reference = None
model = dict(head=dict(_delete_=True, type='HRNetHead'))
default_hooks = dict(checkpoint=dict(save_best='semseg/mIoU'))
