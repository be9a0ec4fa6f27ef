"""verl: reinforcement learning of language models by self-distillation (SDPO), on Ray, FSDP2 and vLLM.

The package is read from the bottom up; a module imports only from lower floors (CONTRIBUTING.md has the list):
`types`, `protocol`, `config`, `registry`; then the ideas (`algorithms`, `self_distillation`, `rewards`, `dataset`);
the machines (`models`, `rollout`, `weights`, `checkpoint`, `tracking`); Ray (`single_controller`, `workers`);
the drivers (`trainer`); and the doors (`trainer/main_*.py`). This file imports nothing, so `import verl.algorithms`
costs torch and nothing else.
"""

__version__ = "0.1.0"
