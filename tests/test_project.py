"""What holds the project's own files together."""

import re
import subprocess
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from micse_utils.settings import VARIABLES
from micse_utils.sources.packaged import MANIFEST

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = [
    Requirement(line)
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").split("\n")
    if line
]
PINS = {canonicalize_name(r.name): r for r in LOCK if r.marker is None or r.marker.evaluate()}
# What PyTorch brings along on a machine with a GPU, chosen by its own wheel.
ACCELERATOR = re.compile(r"nvidia-|cuda-|triton")


def declared():
    extras = [v for name, v in PROJECT["optional-dependencies"].items() if name != "hub"]
    return [Requirement(text) for text in sum(extras, PROJECT["dependencies"])]


def version(name):
    [specifier] = PINS[canonicalize_name(name)].specifier
    return specifier.version


def test_every_declared_requirement_is_locked_within_its_range():
    for requirement in declared():
        assert requirement.specifier.contains(version(requirement.name)), requirement


def test_the_lock_pins_exactly_and_completely():
    """Whatever a locked package needs here is locked as well, so that pip has nothing to choose."""
    assert all([s.operator for s in requirement.specifier] == ["=="] for requirement in LOCK)
    for name in [canonicalize_name(r.name) for r in declared()]:
        for text in distribution(name).requires or []:
            needed = Requirement(text)
            if ACCELERATOR.match(needed.name):
                continue
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                pin = version(needed.name)
                assert needed.specifier.contains(pin, prereleases=True), f"{name} needs {text}"


def test_what_is_installed_is_what_is_locked():
    for name in PINS:
        installed = distribution(name).version
        assert installed.split("+")[0] == version(name), name


def test_conda_installs_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    python, pip = conda  # anything else could drift from the lock
    # As Binder reads it; with any other sign it starts from a Python that the kit cannot use.
    [chosen] = re.fullmatch(r"python=(3\.\d+)", python).groups()
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(chosen)
    assert Requirement(pip).specifier.contains(version("pip"))


def test_the_docs_name_every_variable_and_every_carrier():
    page = (ROOT / "docs" / "your-own-data.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in VARIABLES)
    data = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for artifact in MANIFEST.values():
        for carrier in artifact["carriers"]:
            name, pinned = carrier["requirement"].split("==")
            assert f"`{name}` {pinned}" in data


def make(*arguments, **variables):
    return subprocess.run(
        ["make", *arguments, *(f"{k}={v}" for k, v in variables.items())],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_committed_text_names_no_machine():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not a git checkout")
    leak = re.compile(r"/(?:home|root|Users)/\w|py" + r"pi\.org|python" + "hosted")
    for name in files.stdout.split():
        if not name.endswith(".png"):
            assert not leak.search((ROOT / name).read_text(encoding="utf-8")), name
