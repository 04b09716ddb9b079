"""What `import micse_utils` offers, and how little it costs."""

import subprocess
import sys

import pytest

import micse_utils


@pytest.mark.parametrize("name", sorted({*micse_utils.__all__} - {"__version__"}))
def test_a_name_is_the_object_of_its_module(name):
    offered = getattr(micse_utils, name)
    assert offered.__name__ == name
    assert getattr(sys.modules[offered.__module__], name) is offered


def test_the_import_itself_loads_no_torch():
    code = "import sys, micse_utils; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
