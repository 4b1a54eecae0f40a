# Mona (arXiv:2408.08345): adapters with convolutions in the stream, shared by all tasks, with the
# authors' initial values. Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/peers/mona_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='Mona', zero_init=False)))
