"""Package metadata."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "vmt_mm/__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)
ONEDL = [
    "onedl-mmengine>=0.10.12",
    "onedl-mmcv>=2.3.6",
    "onedl-mmsegmentation>=1.4.2",
    "onedl-mmpretrain>=1.3.6",
]

setup(
    name="vmt_mm",
    version=VERSION,
    description="VMT-Adapter for MMSegmentation: one frozen transformer, many dense tasks",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["vmt_mm", "vmt_mm.*"]),
    package_data={"vmt_mm": ["weights/*"]},
    # The OpenMMLab packages are left to the user: either the OneDL builds (the extra below) or an
    # existing environment of the original packages, never both.
    install_requires=[
        "torch>=2.1",
        "numpy>=1.26",
        "opencv-python>=4.9",
        "pillow>=10",
        "filelock>=3.12",
        "safetensors>=0.4",
        "matplotlib>=3.8",
        "rich>=13",
        "scipy>=1.11",
    ],
    extras_require={
        "onedl": ONEDL,
        "dev": ["pytest", "pytest-timeout", "pytest-xdist", "pyright[nodejs]", "ruff"],
        "docs": ["mkdocs", "mkdocstrings[python]"],
        "export": ["onnx", "onnxruntime"],
        "mat": ["h5py>=3.10"],
        "timm": ["timm>=1.0.31"],
        "torchjd": ["torchjd>=0.18,<0.19"],
        "webapp": ["gradio>=6"],
    },
)
