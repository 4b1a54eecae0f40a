# The paper's recipe: 60 epochs, total batch 12, Adam, linear decay to 0 per iteration.
total_batch_size = 12  # divided by the number of processes
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='TrainableOnlyConstructor',
    optimizer=dict(type='Adam', lr=1e-4, weight_decay=1e-4))
param_scheduler = [
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=True, convert_to_iter_based=True)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=60, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
