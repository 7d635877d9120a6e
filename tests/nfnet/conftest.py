"""timm, where it is installed."""

import sys
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def timm():
    """Timm's module of normalizer-free networks."""
    # torchvision's own registers operators that its build beside a torch for CPUs does not have
    sys.modules.setdefault("torchvision._meta_registrations", ModuleType("torchvision._meta_registrations"))
    return pytest.importorskip("timm.models.nfnet", reason="`scripts/test --timm tests/nfnet` runs it with timm")
