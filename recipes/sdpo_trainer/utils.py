"""Unsloth must be imported before what it patches; this says so when it was not.

Looks at what is in `sys.modules` and imports nothing itself, since importing TRL is just what would come too early.
Which of two packages was imported first cannot be seen there (Python moves a module to the end when its import is
done), so with both present it is asked whose `GRPOTrainer` TRL gives out.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings

_PATCHED = ("trl", "transformers", "peft")


def check_unsloth_import_order() -> bool:
    """Whether Unsloth, if it is installed, can do its work; warns with the two lines to move if it cannot.

    Returns:
        True: Unsloth is not installed; or it has replaced `trl.GRPOTrainer`; or nothing has come too early yet: neither
        trl, transformers nor peft is imported without Unsloth, and TRL has not loaded a `GRPOTrainer` of its own.
        False: it is installed, but has not patched what is already imported; training works, but without Unsloth.
    """
    trainer = vars(sys.modules["trl"]).get("GRPOTrainer") if "trl" in sys.modules else None
    if "unsloth" in sys.modules:
        if trainer is None or _is_unsloths(trainer):
            return True
        what = f"trl.GRPOTrainer is still {trainer.__module__}.{trainer.__qualname__}"
    else:
        too_early = [name for name in _PATCHED if name in sys.modules]
        if not too_early or importlib.util.find_spec("unsloth") is None:
            return True
        what = f"was not imported before {', '.join(too_early)}"
    warnings.warn(
        f"Unsloth is installed, but {what}: training runs without it. To use it, move these two lines to the top of the"
        " program, above all other imports:\n"
        "    from unsloth import FastLanguageModel, PatchFastRL\n"
        '    PatchFastRL("GRPO", FastLanguageModel)',
        stacklevel=2,
    )
    return False


def _is_unsloths(trainer: type) -> bool:
    """Whether a class was made by Unsloth, which names the module or the class after itself."""
    return "unsloth" in f"{trainer.__module__}.{trainer.__qualname__}".lower()
