default_scope = 'vmt_mm'
runner_type = 'MultiTaskRunner'  # atomic checkpoints, strict loading, exact resume
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='Visualizer', vis_backends=vis_backends)
log_processor = dict(type='LogProcessor', by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=True),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # Batch norm is per process; its running statistics are averaged before validation.
    sync_buffers=dict(type='SyncBuffersHook'),
    # On SIGTERM and SIGINT: write a checkpoint, then exit.
    graceful_stop=dict(type='GracefulStopHook'),
    # On a NaN or Inf loss: 'raise' an error, or 'skip' the step, at most max_skips times.
    finite_loss=dict(type='FiniteLossHook', on_error='raise', max_skips=10),
    labels=dict(type='LabelReportHook'),
    parameters=dict(type='ParameterTableHook'),
    visualization=dict(type='MultiTaskVisualizationHook', num_images=2))
