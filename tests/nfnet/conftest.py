"""timm, where it is installed."""

import pytest
from _timm import networks


@pytest.fixture(scope="module")
def timm():
    """Timm's module of normalizer-free networks."""
    try:
        return networks()
    except ImportError:
        pytest.skip("`scripts/test --timm tests/nfnet` runs it with timm")
