"""Imports only point downwards, and never in a circle, so that any file can be read after those below it.

Read from the source with `ast`: imports inside functions count, those under `if TYPE_CHECKING:` do not.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {
    0: ["verl.types", "verl.protocol", "verl.config", "verl.registry", "verl.prefixes"],
    1: ["verl.algorithms", "verl.self_distillation", "verl.rewards", "verl.sandbox", "verl.dataset", "verl.evaluation"],
    2: ["verl.models", "verl.rollout", "verl.weights", "verl.checkpoint", "verl.tracking"],
    3: ["verl.single_controller", "verl.workers"],
    4: ["verl.trainer"],
    5: ["recipes", "data", "verl.model_merger"],
}
DOOR_FILES = {"compose", "resolve", "door"}
"""Parts of the doors of verl.trainer, beside main_*.py: the only files that know Hydra."""
NEIGHBOURS = {
    ("verl.rollout", "verl.models"),
    ("verl.weights", "verl.models"),
    ("verl.weights", "verl.rollout"),
    ("verl.rewards", "verl.sandbox"),
    ("verl.workers", "verl.single_controller"),
    ("recipes", "data"),
    ("recipes", "verl.trainer"),  # doors of their own, composed as ours are
    ("verl.model_merger", "verl.checkpoint"),  # one door is another's name
} | {(a, b) for a in FLOORS[0] for b in FLOORS[0]}
"""Pairs on one floor that may know each other (floor 0 is words: only circles are forbidden)."""
ONLY_IN = {
    "ray": ("verl.single_controller", "verl.workers"),
    "vllm": ("verl.rollout.vllm_engine",),
    "triton": ("verl.algorithms.softmax_tile_triton",),
    "hydra": ("verl.trainer.compose",),
    "omegaconf": ("verl.trainer.compose", "verl.trainer.resolve"),
}
NOT_IN = {
    "verl.config": {"torch", "hydra", "omegaconf"},
    "verl.types": {"torch"},
    "verl.registry": {"torch"},
    "verl.self_distillation.reprompt": {"torch"},
    "verl.algorithms": {"ray", "vllm", "transformers", "hydra", "omegaconf", "pyarrow", "datasets"},
}


PACKAGE, PACKAGE_SOURCE = "sdpo_trainer", "recipes.sdpo_trainer"
"""A package that is installed under its own name, and where its source is."""


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(p): p for top in ("verl", "recipes", "data") for p in sorted((ROOT / top).rglob("*.py"))}


def imports_of(name):
    """Dotted names that a module imports; `from package import module` gives the module."""
    found = set()
    for node in statements(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {source_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            module = source_of(node.module)
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                found.add(inner if inner in FILES else module)
    return found


def source_of(name):
    """The module's name by its place in the repository."""
    return PACKAGE_SOURCE + name.removeprefix(PACKAGE) if is_in(name, PACKAGE) else name


def statements(tree):
    """All nodes, without the body of `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from statements(node)


def is_in(name, package):
    return name == package or name.startswith(f"{package}.")


def package_of(name):
    return next((p for packages in FLOORS.values() for p in packages if is_in(name, p)), None)


def floor_of(name):
    last = name.rsplit(".", 1)[-1]
    is_trainer_door = is_in(name, "verl.trainer") and (last.startswith("main_") or last in DOOR_FILES)
    if is_trainer_door or last == "__main__":
        return 5
    return next((floor for floor, packages in FLOORS.items() if package_of(name) in packages), None)


IMPORTS = {name: imports_of(name) for name in FILES}


def test_every_module_has_a_floor():
    assert [name for name in FILES if name != "verl" and floor_of(name) is None] == []


def test_imports_point_downwards():
    wrong = []
    for name, found in IMPORTS.items():
        for other in found & FILES.keys() - {"verl"}:
            same_package = package_of(name) == package_of(other)
            neighbours = (package_of(name), package_of(other)) in NEIGHBOURS
            upwards = floor_of(other) > floor_of(name)
            if upwards or (floor_of(other) == floor_of(name) and not same_package and not neighbours):
                wrong.append(f"{name} (floor {floor_of(name)}) imports {other} (floor {floor_of(other)})")
    assert wrong == []


def test_no_circles():
    """Depth-first search over the whole graph; a package's __init__ is what an import of its parts runs first."""
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(IMPORTS[name] & FILES.keys()):
            visit(other)
        path.pop()
        done.add(name)

    for name in FILES:
        visit(name)


@pytest.mark.parametrize(("library", "homes"), ONLY_IN.items())
def test_libraries_stay_at_home(library, homes):
    users = [name for name, found in IMPORTS.items() if any(is_in(other, library) for other in found)]
    assert [user for user in users if not any(is_in(user, home) for home in homes)] == []


@pytest.mark.parametrize(("package", "libraries"), NOT_IN.items())
def test_what_stays_light(package, libraries):
    inside = [name for name in FILES if is_in(name, package)]
    assert inside
    wrong = {name: libraries & {other.split(".")[0] for other in IMPORTS[name]} for name in inside}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_trl_trainer_knows_only_words_and_ideas():
    """It runs without Ray, vLLM and Hydra, so everything it takes from verl is of floor 0 or 1."""
    inside = {name: found for name, found in IMPORTS.items() if is_in(name, PACKAGE_SOURCE)}
    assert any(is_in(other, PACKAGE_SOURCE) for found in inside.values() for other in found)  # its own are recognised
    wrong = [
        f"{name} imports {other}, which is not of floor 0 or 1 of verl"
        for name, found in inside.items()
        for other in found
        if other.split(".")[0] in ("ray", "vllm", "hydra", "omegaconf")
        or (is_in(other, "verl") and other != "verl" and floor_of(other) not in (0, 1))
    ]
    assert wrong == []


def test_verl_does_not_know_the_trl_trainer():
    users = [name for name, found in IMPORTS.items() if any(is_in(other, PACKAGE_SOURCE) for other in found)]
    assert [name for name in users if not is_in(name, PACKAGE_SOURCE)] == []
