"""What the tests share."""

import mindspore as ms
import pytest

MODES = {"graph": ms.GRAPH_MODE, "pynative": ms.PYNATIVE_MODE}


@pytest.fixture(params=MODES)
def mode(request):
    """Run the test in both modes, with the strict syntax that every backend compiles."""
    ms.set_context(mode=MODES[request.param], jit_syntax_level=ms.STRICT)
    return request.param
