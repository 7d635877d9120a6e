"""What the tests share."""

import gc

import mindspore as ms
import pytest

# MindSpore collects garbage whenever it compiles; what is loaded by now need not be looked through each time.
gc.freeze()

MODES = {"graph": ms.GRAPH_MODE, "pynative": ms.PYNATIVE_MODE}


@pytest.fixture(params=MODES)
def mode(request):
    """Run the test in both modes, with the strict syntax that every backend compiles."""
    ms.set_context(mode=MODES[request.param], jit_syntax_level=ms.STRICT)
    return request.param
