# VMT-Adapter with HRNet-style heads (Fig. 5b). Delta needs scores of single-task full fine-tuning
# with the same heads, which the paper does not print; give yours as reference=dict(semseg=..., ...).
#   tools/dist_train.sh configs/vmt/vmt_swin-t_pascal_hrnet.py 4
_base_ = './vmt_swin-t_pascal.py'
reference = None
model = dict(head=dict(_delete_=True, type='HRNetHead'))
default_hooks = dict(checkpoint=dict(save_best='semseg/mIoU'))
