"""The versions of other packages that are known to fail, refused when this one is imported and not by a crash later."""

import re

import mindspore
import numpy


def refusal(mindspore: str, numpy: str) -> str | None:
    """Say why it cannot work with these versions; None if that is not known."""
    if _numbers(mindspore) < (2, 8):
        return (
            f"For 'ms_optim', the version of MindSpore must be at least 2.8, but got {mindspore}, where writing into a "
            "Parameter that a compiled step reads ends the process."
        )
    if _numbers(numpy) >= (2,):
        return (
            f"For 'ms_optim', the version of NumPy must be less than 2, but got {numpy}, with which the arithmetic of "
            f"MindSpore {mindspore} fails: pip install 'numpy<2'."
        )
    return None


def _numbers(version):
    """The first two numbers of a version, as those of "2.10.0rc1" and "2.10.0"."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


if _why := refusal(mindspore.__version__, numpy.__version__):
    raise ImportError(_why)
