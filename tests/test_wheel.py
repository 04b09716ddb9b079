"""The wheel that Colab installs: built, installed elsewhere and used from there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from micse_utils.settings import cache_folder
from tools.bundle import kit_files

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--quiet", "--isolated"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder with the kit installed from its wheel; the kit has one sub-package more than ours."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout, target = folder / "checkout", folder / "installed"
    for name in [*kit_files(), "micse_utils/extra/__init__.py", "micse_utils/extra/module.py"]:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, checkout / name)
        else:
            (checkout / name).touch()
    build = ["wheel", "--no-build-isolation", "--no-deps", f"--wheel-dir={folder}", checkout]
    subprocess.run([*PIP, *build], check=True)
    [wheel] = folder.glob("micse_kit-*.whl")
    install = ["install", "--no-index", "--no-deps", f"--target={target}", wheel]
    subprocess.run([*PIP, *install], check=True)
    return target


def test_the_wheel_holds_the_whole_package_its_data_and_nothing_else(installed):
    files = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    shipped = {
        path.as_posix()
        for path in files
        if not path.parts[0].endswith(".dist-info") and path.suffix != ".pyc"
    }
    assert "bin/micse" in shipped
    shipped.remove("bin/micse")
    package = {name for name in kit_files() if name.startswith("micse_utils/")}
    extra = {"micse_utils/extra/__init__.py", "micse_utils/extra/module.py"}
    data = {f"micse_utils/{n}" for n in kit_files() if n.startswith("data/") and n[-3:] != ".md"}
    assert shipped == package | extra | data


@pytest.mark.slow
def test_the_installed_wheel_imports_every_module_and_encodes(installed, encoder, tmp_path):
    code = """
import importlib, pkgutil
import micse_utils
for module in pkgutil.walk_packages(micse_utils.__path__, "micse_utils."):
    importlib.import_module(module.name)
from micse_utils.encoding import encode
from micse_utils.models import load_model
embeddings = encode(load_model(source="package", device="cpu"), ["A man plays a guitar."])
from micse_utils.cli import main
try:
    main(["--help"])
except SystemExit as ended:
    assert ended.code == 0
print(micse_utils.__file__, *embeddings.shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed), "MICSE_CACHE": str(cache_folder())},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    own = installed / "micse_utils" / "__init__.py"
    assert done.stdout.splitlines()[-1] == f"{own} 1 {encoder.get_embedding_dimension()}"
