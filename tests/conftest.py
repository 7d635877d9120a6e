"""What the tests share is loaded where they run: the process that hands them out imports neither framework."""

import atexit
import os
import sys
from importlib.metadata import version


def pytest_report_header():
    """What the tests run with."""
    packages = {"MindSpore": "mindspore", "torch": "torch", "NumPy": "numpy"}
    python = ".".join(map(str, sys.version_info[:2]))
    named = ", ".join(f"{name} {version(package)}" for name, package in packages.items())
    return f"Tested on {named} and Python {python}."


def pytest_configure(config):
    """Load it, unless this process only hands out the tests."""
    is_worker, option = hasattr(config, "workerinput"), config.option
    if is_worker:
        # after all else: to take down, object by object, what the tests have compiled takes seconds
        atexit.register(os._exit, 0)
    if is_worker or option.collectonly or getattr(option, "dist", "no") == "no":
        config.pluginmanager.import_plugin("helpers.session")
