import shutil

import pytest
from sandbox_case import CONFIG

from verl.sandbox import Sandbox, SandboxError
from verl.sandbox.isolation import _is_privileged


@pytest.fixture(scope="session", params=["namespaces", "bubblewrap"])
def sandbox(request):
    if request.param == "bubblewrap" and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    try:
        box = Sandbox(CONFIG, kinds=(request.param,))
    except SandboxError as error:
        if _is_privileged():
            raise  # nothing on this machine forbids the walls, so they are broken
        pytest.skip(str(error))
    yield box
    box.close()
