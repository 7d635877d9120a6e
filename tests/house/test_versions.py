"""Versions of other packages: what fails is refused at import, and what is said to work is what the tests ran with."""

import re
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import pytest

from ms_optim._versions import refusal

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("mindspore", "numpy", "message"),
    [
        ("2.7.0", "1.26.4", "the version of MindSpore must be at least 2.8, but got 2.7.0"),
        ("1.10.1", "1.26.4", "the version of MindSpore must be at least 2.8, but got 1.10.1"),
        ("2.10.0", "2.0.0", "the version of NumPy must be less than 2, but got 2.0.0"),
        ("2.8.0", "1.26.4", None),
        ("2.10.0rc1", "1.26.4", None),
        ("2.11.0", "1.26.4", None),
    ],
)
def test_what_is_known_to_fail_is_refused(mindspore, numpy, message):
    """By name; what is newer than all that is known is not."""
    got = refusal(mindspore, numpy)
    assert (got is None) if message is None else got.startswith(f"For 'ms_optim', {message}")


def test_at_import():
    """Before anything else of it runs."""
    code = (
        "import mindspore; mindspore.__version__ = '2.7.0'\n"
        "try:\n    import ms_optim\nexcept ImportError as error:\n    print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.startswith("For 'ms_optim', the version of MindSpore must be at least 2.8, but got 2.7.0")


def test_readme_says_what_the_tests_ran_with():
    """`scripts/test --mindspore VERSION` prints it; setup.py allows no version that is not there."""
    (line,) = re.findall(r"^Tested on MindSpore (.+?),? torch", (ROOT / "README.md").read_text(), re.MULTILINE)
    versions = re.findall(r"\d+\.\d+\.\d+", line)
    assert ms.__version__ in versions
    (pin,) = re.findall(r'"mindspore>=([\d.]+),<([\d.]+)"', (ROOT / "setup.py").read_text())
    numbers = [tuple(map(int, version.split(".")[:2])) for version in (*pin, *versions)]
    assert min(numbers[2:]) == numbers[0] and max(numbers[2:]) < numbers[1]
