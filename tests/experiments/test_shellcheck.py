"""Every shell script of the repository is clean under shellcheck (pinned in requirements-common.txt)."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("data", "experiments", "recipes", "tests", "docker")


def test_shell_scripts_are_clean():
    scripts = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.sh"))]
    program = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    assert program, "shellcheck is not installed: pip install -r requirements-common.txt"
    process = subprocess.run([program, "--external-sources", *scripts], capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stdout + process.stderr
    assert len(scripts) > 15
