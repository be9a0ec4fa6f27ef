import shutil

import pytest
from sandbox_case import CONFIG

from verl.sandbox import Sandbox, SandboxError


@pytest.fixture(scope="session", params=["namespaces", "bubblewrap"])
def sandbox(request):
    if request.param == "bubblewrap" and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    try:
        box = Sandbox(CONFIG, kinds=(request.param,))
    except SandboxError as error:
        pytest.skip(str(error))
    yield box
    box.close()
