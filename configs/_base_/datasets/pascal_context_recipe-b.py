# PASCAL-Context with another usual augmentation: scale 0.5 to 2, a crop in which no class covers more
# than 75 %, flip, colours, and padding if the scaled image is smaller than the crop.
# Use it in a config instead of pascal_context.py:
#   _base_ = ['../_base_/datasets/pascal_context_recipe-b.py', ...]
_base_ = './pascal_context.py'
mean_color = (104, 116, 124)  # BGR; 0 after normalisation

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadLabels'),
    dict(type='RandomResize', ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', cat_max_ratio=0.75, cat_tasks=('semseg', )),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='Pad', pad_val=dict(img=mean_color)),
    dict(type='PackMultiTaskInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
