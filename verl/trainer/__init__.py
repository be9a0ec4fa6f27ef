"""The drivers: the reinforcement-learning loop, supervised fine-tuning, validation, and what listens to a step.

`main_*.py` are the doors; they read the command line before anything heavy is imported.
"""
