"""What makes the policy its own teacher: the prompt the teacher sees (`reprompt`) and its weights (`teacher`).

Nothing is re-exported, because reprompting works on text alone and must not import torch, which the teacher needs.
"""
