"""What `import micse_utils` offers, and how little it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import micse_utils


@pytest.mark.parametrize("name", sorted({*micse_utils.__all__} - {"__version__"}))
def test_a_name_is_the_object_of_its_module(name):
    offered = getattr(micse_utils, name)
    assert offered.__name__ == name
    assert getattr(sys.modules[offered.__module__], name) is offered
    assert name in dir(micse_utils)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(micse_utils.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname: f"{statement.module}.{alias.name}"
        for statement in block.body
        for alias in statement.names
    }
    offered = {n: f"micse_utils.{m}.{n}" for n, m in micse_utils._MODULES.items()}
    assert seen == offered


def test_the_import_itself_loads_no_torch():
    code = "import sys, micse_utils; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
