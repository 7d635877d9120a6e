"""What the tests share."""

import gc

import pytest

from parity.mindspore_side import MODES, set_mode

# MindSpore collects garbage whenever it compiles; what is loaded by now need not be looked through each time.
gc.freeze()


@pytest.fixture(params=MODES)
def mode(request):
    """Run the test in both modes, with the strict syntax that every backend compiles."""
    set_mode(request.param)
    return request.param
