"""Which arguments the installed vLLM takes, read from its source: importing it takes many seconds and needs torch."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any


@cache
def vllm_arguments() -> frozenset[str]:
    """Names that `vllm.LLM` takes; empty where vLLM is not installed, or is built otherwise than we know."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return frozenset()
    folder = Path(spec.origin).parent
    try:
        engine = _class(folder / "engine/arg_utils.py", "EngineArgs")
        door = _class(folder / "entrypoints/llm.py", "LLM")
    except (OSError, SyntaxError, LookupError):
        return frozenset()
    names = {ast.unparse(node.target) for node in engine.body if isinstance(node, ast.AnnAssign)}
    start = next(node for node in door.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return frozenset(names | {argument.arg for argument in [*start.args.args, *start.args.kwonlyargs]} - {"self"})


def _class(file: Path, name: str) -> ast.ClassDef:
    """Raises LookupError when the file has no such class."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise LookupError(name)


def vllm_problems(key: str, given: dict[str, Any]) -> list[str]:
    """One sentence for each argument that the installed vLLM does not know, with the nearest that it does."""
    known = vllm_arguments()
    problems: list[str] = []
    for name, value in given.items():
        if known and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            problems.append(f"{key}.{name}={value}: the installed vLLM has no such argument.{hint}")
    return problems
