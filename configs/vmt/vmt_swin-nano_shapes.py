[
  {
    "config": "/work/main/configs/vmt/vmt_swin-nano_shapes.py",
    "tasks": 1,
    "mode": "encoder",
    "passes": "shared",
    "batch": 1,
    "size": [
      112,
      112
    ],
    "median_s": 0.030364473500071654,
    "min_s": 0.01075458900004378,
    "ratio": 1.0,
    "device": "cpu",
    "threads": 1
  },
  {
    "config": "/work/main/configs/vmt/vmt_swin-nano_shapes.py",
    "tasks": 2,
    "mode": "encoder",
    "passes": "shared",
    "batch": 1,
    "size": [
      112,
      112
    ],
    "median_s": 0.027245013999959156,
    "min_s": 0.016913087000148153,
    "ratio": 0.8972661422861444,
    "device": "cpu",
    "threads": 1
  },
  {
    "config": "/work/main/configs/vmt/vmt_swin-nano_shapes.py",
    "tasks": 4,
    "mode": "encoder",
    "passes": "shared",
    "batch": 1,
    "size": [
      112,
      112
    ],
    "median_s": 0.02960041950007053,
    "min_s": 0.0186389190000682,
    "ratio": 0.9748372386565728,
    "device": "cpu",
    "threads": 1
  },
  {
    "config": "/work/main/configs/vmt/vmt_swin-nano_shapes.py",
    "tasks": 8,
    "mode": "encoder",
    "passes": "shared",
    "batch": 1,
    "size": [
      112,
      112
    ],
    "median_s": 0.03281540550005957,
    "min_s": 0.013515365999865026,
    "ratio": 1.0807170919654554,
    "device": "cpu",
    "threads": 1
  }
]
