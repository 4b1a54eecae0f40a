# VMT-Adapter (rho = 4, s = 0.5). Swin-T, PASCAL-Context with edges as a fifth task.
#   tools/dist_train.sh configs/vmt/vmt_swin-t_pascal-5task.py 4
_base_ = './vmt_swin-t_pascal.py'
tasks = dict(edge=dict(type='Edge', loss_weight=50.0))
reference = None  # the paper has no score for edges, so no Delta
default_hooks = dict(checkpoint=dict(save_best='semseg/mIoU'))
