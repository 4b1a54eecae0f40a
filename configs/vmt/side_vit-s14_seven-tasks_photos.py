# The photographs of side_vit-s14_seven-tasks.py alone, for comparison: four tasks, with as many updates and
# images of them.
#   python tools/train.py configs/vmt/side_vit-s14_seven-tasks_photos.py
_base_ = './side_vit-s14_seven-tasks.py'
tasks = dict(_delete_=True, **{name: _base_.tasks[name] for name in _base_.photos.tasks})
train = dict(_base_.train)
train.update(pipeline=[
    step for step in train['pipeline']
    if step['type'] != 'DeriveLabel' or {step['task'], step['source']} <= {*tasks}
])
total_batch_size = 6
train_dataloader = dict(
    sampler=dict(balance=None, length=768),
    dataset=dict(_delete_=True, **_base_.photos, **train))
val_dataloader = dict(dataset=dict(_delete_=True, **_base_.photos, **_base_.val))
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=dict(save_best='objects/mIoU'))
