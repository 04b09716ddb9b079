"""Who imports whom: the floors of the package, its notebooks and its tools."""

import ast
import json
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (  # a module imports from its own floor and from those before it
    {"device", "job", "provenance", "results", "settings"},
    {"sources"},
    {"datasets", "encoding", "engine", "explore", "models"},
    {"evaluation"},
    {"plotting", "training"},
    {"cluster"},
    {"cli", "__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = [p.relative_to(ROOT) for d in ("micse_utils", "tools") for p in ROOT.glob(f"{d}/**/*.py")]
MODULES = {".".join(f.with_suffix("").parts).removesuffix(".__init__"): f for f in FILES}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def module_of(name):
    """The module of ours that an imported name is or comes from, or None."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def imported(source):
    """Names that Python code imports of ours, wherever in it the import is."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "the kit names its modules in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if module_of(name)}


def room(module):
    """Folder or single module of `micse_utils`, or `tools`."""
    package, *inside = module.split(".")
    return "tools" if package == "tools" else inside[0] if inside else "micse_utils"


IMPORTS = {
    module: imported((ROOT / file).read_text(encoding="utf-8")) for module, file in MODULES.items()
}
PACKAGE = [m for m in MODULES if m.startswith("micse_utils.")]


@pytest.mark.parametrize("module", PACKAGE)
def test_a_module_imports_from_no_floor_above_its_own(module):
    assert room(module) in FLOOR, "a new room: say above which it stands"
    names = IMPORTS[module] - {"micse_utils.__version__"}
    rooms = {name: room(module_of(name)) for name in names}
    above = {n for n, r in rooms.items() if FLOOR.get(r, len(FLOORS)) > FLOOR[room(module)]}
    assert not above  # nor from tools, nor by the names that micse_utils itself offers


def test_neither_modules_nor_rooms_import_in_a_circle():
    modules = {m: {module_of(name) for name in IMPORTS[m]} - {"micse_utils"} for m in PACKAGE}
    rooms = {room(m): set() for m in PACKAGE}
    for module, needed in modules.items():
        rooms[room(module)] |= {room(other) for other in needed} - {room(module)}
    for graph in (modules, rooms):
        TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", [m for m in PACKAGE if room(m) == "plotting"])
def test_plotting_imports_only_its_own_style_and_the_ground(module):
    style = "micse_utils.plotting.style"
    ground = {"micse_utils.settings"}
    allowed = ground if module == style else {style, *ground}
    assert {module_of(name) for name in IMPORTS[module]} <= allowed


@pytest.mark.parametrize("module", [m for m in PACKAGE if MODULES[m].name == "__init__.py"])
def test_a_folder_itself_imports_nothing(module):
    assert not IMPORTS[module]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_no_cluster_command_line_or_tool(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    code = re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", code)
    assert "micse_utils" in code
    rooms = {room(module_of(name)) for name in imported(code)}
    assert not rooms & {"cluster", "cli", "tools"}
