"""The transformer that the engine's tests share."""

import pytest
from engine_jobs import small_net


@pytest.fixture(scope="session")
def model():
    return small_net()
