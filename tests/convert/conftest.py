"""What the tests of conversion share."""

import pytest

from parity.sides.mindspore import set_mode


@pytest.fixture(autouse=True)
def graph():
    """Unless a test takes `mode`."""
    set_mode("graph")
