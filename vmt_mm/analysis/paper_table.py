"""Trainable parameters that the paper prints, by the name of the config that stands for the row.

Source: VMT-Adapter, AAAI 2024, https://arxiv.org/abs/2312.08733, Tables 2 and 3, "Trainable
Parameters Encoder / All (M)": Swin-T, four tasks of PASCAL-Context, All-MLP decoders.
"""

from __future__ import annotations

#: Config file without suffix -> millions of (encoder, encoder and decoders), as printed.
PAPER_TABLE: dict[str, tuple[float, float]] = {
    "single_task_full_swin-t_pascal": (110.07, 112.62),
    "decoders_swin-t_pascal": (0.00, 2.55),
    "multi_task_full_swin-t_pascal": (27.51, 30.06),
    "multiple_bitfit_swin-t_pascal": (0.30, 2.85),
    "multiple_relative_bias_swin-t_pascal": (0.09, 2.64),
    "multiple_lora_swin-t_pascal": (0.32, 2.87),
    "multiple_adapter_swin-t_pascal": (8.69, 11.24),
    "multiple_low_rank_adapter_swin-t_pascal": (0.34, 2.89),
    "shared_bitfit_swin-t_pascal": (0.08, 2.63),
    "shared_relative_bias_swin-t_pascal": (0.03, 2.58),
    "shared_lora_swin-t_pascal": (0.13, 2.68),
    "shared_adapter_swin-t_pascal": (2.17, 4.71),
    "shared_low_rank_adapter_swin-t_pascal": (0.10, 2.62),
    "hyperformer_swin-t_pascal": (72.77, 75.32),
    "polyhistor_swin-t_pascal": (6.41, 8.96),
    "polyhistor-lite_swin-t_pascal": (0.41, 2.96),
    "vmt_swin-t_pascal_rho1": (4.36, 6.91),
    "vmt_swin-t_pascal_rho2": (2.21, 4.56),  # printed so; 2.21 + 2.55 is 4.76
    "vmt_swin-t_pascal": (1.13, 3.68),
    "vmt_swin-t_pascal_rho8": (0.59, 3.14),
    "vmt-lite_swin-t_pascal": (0.40, 2.95),
    "vmt-lite_swin-t_pascal_m6": (0.22, 2.77),
    "vmt-lite_swin-t_pascal_m12": (0.15, 2.70),
}
