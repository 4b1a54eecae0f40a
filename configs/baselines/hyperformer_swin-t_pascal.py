# Hyperformer (Table 2): hypernetworks generate two adapters per block and task; one pass per task.
# Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/hyperformer_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='Hyperformer', ratio=8, embedding=64)))
