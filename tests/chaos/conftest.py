"""Reference runs, made once for all scenarios that compare with them."""

import pytest
from harness import ChaosRun


@pytest.fixture(scope="session")
def reference(home_api_data, tmp_path_factory):
    """The uninterrupted run of some settings."""
    made = {}

    def get(settings):
        if settings not in made:
            made[settings] = ChaosRun(home_api_data, tmp_path_factory.mktemp("reference"), settings)
            made[settings].finish()
        return made[settings]

    return get


@pytest.fixture
def make_run(home_api_data, tmp_path):
    return lambda settings: ChaosRun(home_api_data, tmp_path / "run", settings)
