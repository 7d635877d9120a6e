"""How the tests are given to processes."""

import pytest


@pytest.mark.xdist_group("one")
def test_the_group_of_a_test_is_in_its_name(request):
    """Where tests are given out by groups; pytest-xdist sees nothing else of them."""
    assert request.node.nodeid.endswith("@one") == getattr(request.config.option, "loadgroup", False)
