"""Every shell script of the repository is clean under shellcheck (pinned in requirements-common.txt)."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("data", "experiments", "recipes", "tests", "docker")


def test_shell_scripts_are_clean():
    scripts = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.sh"))]
    program = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    if not program and platform.machine() != "x86_64":
        pytest.skip("no shellcheck here, and the package that brings it has none for this machine")
    assert program, "shellcheck is not installed: pip install -r requirements-common.txt"
    process = subprocess.run([program, "--external-sources", *scripts], capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stdout + process.stderr
    assert len(scripts) > 15
