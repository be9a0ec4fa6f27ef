"""Installs `verl`, and `sdpo_trainer` from recipes/ (distribution `sdpo-verl`). Pinned versions stand in
requirements*.txt."""

from setuptools import find_packages, setup

setup(
    name="sdpo-verl",
    version="0.1.0",
    description="Distributed RL of language models by self-distillation (SDPO): Ray, FSDP2, vLLM, Hydra",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["verl", "verl.*"]), "sdpo_trainer"],
    package_dir={"sdpo_trainer": "recipes/sdpo_trainer"},
    package_data={"verl.trainer": ["config/*.yaml"]},
    install_requires=[
        "torch>=2.13,<2.14",
        "transformers>=5.16.1,<5.20",
        "ray[default]>=2.60",
        "hydra-core>=1.3",
        "omegaconf>=2.3",
        "datasets>=4",
        "pyarrow>=18",
        "numpy>=2",
        "PyYAML>=6",
        "xxhash>=3",
        "huggingface_hub>=1",
        "safetensors>=0.6",
        "rich>=13",
        "math-verify[antlr4_9_3]>=0.9",
    ],
    extras_require={
        "vllm": ["vllm==0.32.0"],
        "lora": ["peft>=0.18"],
        "trl": ["trl>=1.16,<1.17", "peft>=0.18"],
        "wandb": ["wandb>=0.23"],
        "tensorboard": ["tensorboard>=2.18"],
        "plot": ["matplotlib>=3.9"],
        "test": ["pytest>=8", "hypothesis>=6", "ruff", "pyright", "codespell"],
    },
)
