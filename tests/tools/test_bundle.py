"""Packing and checking with small real files; wheels are built here, as pip would save them."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hub_server import member, tar
from huggingface_hub import constants
from sources.test_packaged import wheel

from micse_utils.datasets.sts import load_sts
from micse_utils.sources import hub, packaged
from tools import bundle
from tools.bundle import check, main, pack

ROOT = Path(__file__).parents[2]
WEIGHTS = b"weights " * 1000
COMMIT = "0" * 40
WHEEL = "bundle/wheels/thing-1.0-py3-none-any.whl"


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """A small kit without git, with one packaged artifact in its cache and one wheel to install."""
    root = tmp_path / "kit"
    (root / "micse_utils" / "__pycache__").mkdir(parents=True)
    files = {
        "Makefile": "run:\n",
        "requirements.lock": "thing==1.0\n",
        ".gitignore": "__pycache__/\nresults/\nbundle/\n",
        "micse_utils/code.py": "print()\n",
        "micse_utils/__pycache__/code.pyc": "x",
    }
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    cache = tmp_path / "cache" / "encoder"
    cache.mkdir(parents=True)
    (cache / "model.bin").write_bytes(WEIGHTS)
    monkeypatch.setattr(bundle, "ROOT", root)
    monkeypatch.setattr(bundle, "BUNDLE", root / "bundle")
    monkeypatch.setattr(packaged, "MANIFEST", {"encoder": {"files": {"model.bin": ""}}})
    monkeypatch.setattr(packaged, "fetch", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    wheel(tmp_path / "shop", "thing", {"thing/__init__.py": b"answer = 42\n"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shop"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return root


def hub_holds(cache, name, files):
    """Put a repository into the hub's cache as its client leaves it: files are links to blobs."""
    blobs, snapshot = cache / name / "blobs", cache / name / "snapshots" / COMMIT
    for folder in (blobs, snapshot, cache / name / "refs"):
        folder.mkdir(parents=True)
    (cache / name / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    for file, content in files.items():
        (blobs / file).write_bytes(content)
        (snapshot / file).symlink_to(f"../../blobs/{file}")


@pytest.fixture
def unpacked(kit, tmp_path, monkeypatch):
    """What `tar xf` makes of the archive, on a machine whose hub's cache held two repositories."""
    rows = b"pair_ID\tA\tB\tscore\tjudgment\n1\ta cat\ta dog\t3.5\tNEUTRAL\n"
    scored = {"senteval.tar": tar(member("SICK/SICK_test_annotated.txt", rows))}
    hub_holds(tmp_path / "hub", "models--sap-ai-research--miCSE", {"config.json": WEIGHTS})
    hub_holds(tmp_path / "hub", "datasets--princeton-nlp--datasets-for-simcse", scored)
    hub_holds(tmp_path / "hub", "models--somebody--private", {"config.json": b"secret"})
    pack(kit / "results" / "bundle")
    [archive] = (kit / "results" / "bundle").glob("*.tar")
    subprocess.run(["tar", "xf", archive], cwd=tmp_path, check=True)
    shutil.rmtree(tmp_path / "hub")
    return tmp_path / "micse-kit"


def files_in(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_what_is_packed_comes_out_and_installs_without_an_index(kit, unpacked, tmp_path):
    """Kit, wheels and weights; of the hub's cache only what the notebooks need."""
    check(unpacked)
    made = files_in(unpacked)
    assert made >= {"Makefile", "requirements.lock", ".gitignore", "micse_utils/code.py", WHEEL}
    assert not [name for name in made if "private" in name or "pycache" in name]
    assert (unpacked / "bundle" / "cache" / "encoder" / "model.bin").read_bytes() == WEIGHTS
    [archive] = (kit / "results" / "bundle").glob("*.tar")
    with tarfile.open(archive) as opened:
        assert {(m.uid, m.uname, m.isreg()) for m in opened} == {(0, "", True)}
    python = "{}.{}".format(*sys.version_info)
    assert archive.name.endswith(f"-python{python}.tar") and sys.platform in archive.name

    command = [sys.executable, "-m", "pip", "install", "--isolated", "--no-index", "--quiet"]
    command += [f"--find-links={unpacked / 'bundle' / 'wheels'}", f"--target={tmp_path / 'site'}"]
    subprocess.run([*command, "thing==1.0"], check=True)
    assert "42" in (tmp_path / "site" / "thing" / "__init__.py").read_text(encoding="utf-8")


def test_what_came_from_the_hub_is_found_without_it(unpacked, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "BUNDLE", unpacked / "bundle")
    monkeypatch.setattr(hub, "hub_problem", lambda: "no network")
    monkeypatch.setenv("MICSE_CACHE", str(tmp_path / "room"))
    folder, commit = hub.snapshot("sap-ai-research/miCSE", ["*.json"])
    assert ((folder / "config.json").read_bytes(), commit) == (WEIGHTS, COMMIT)
    pairs = load_sts("SICKRelatedness", source="hub")
    assert (pairs.first, pairs.second, pairs.gold.tolist()) == (["a cat"], ["a dog"], [3.5])
    assert pairs.provenance.revision == COMMIT


def test_a_bundle_that_does_not_fit_or_is_damaged_is_refused_in_one_sentence(unpacked):
    listed = unpacked / "bundle" / "bundle.json"
    record = json.loads(listed.read_text(encoding="utf-8"))
    for changes, reason in (
        ({"machine": "plan9-vax-python3.99"}, "for plan9-vax-python3.99, not"),
        ({"files": {"requirements.lock": "0"}}, "different requirements.lock"),
    ):
        listed.write_text(json.dumps(record | changes), encoding="utf-8")
        with pytest.raises(RuntimeError, match=reason):
            check(unpacked)
    listed.write_text(json.dumps(record), encoding="utf-8")
    (unpacked / "micse_utils" / "code.py").write_text("edited", encoding="utf-8")
    check(unpacked)
    weights = unpacked / "bundle" / "cache" / "encoder" / "model.bin"
    weights.write_bytes(b"W" + WEIGHTS[1:])
    with pytest.raises(RuntimeError, match=r"model\.bin is damaged or missing"):
        check(unpacked)


def test_files_of_the_user_are_neither_overwritten_nor_packed_over(kit, tmp_path, capsys):
    """A folder with files of somebody else is refused; wheels that pip lacks leave the archive."""
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / "notes.txt").write_text("mine", encoding="utf-8")
    assert main(["pack", str(tmp_path / "stick")]) == 1
    assert '"notes.txt" and no marker of the kit' in capsys.readouterr().err
    assert files_in(tmp_path / "stick") == {"notes.txt"}

    assert main(["pack", str(tmp_path / "new")]) == 0
    [archive] = (tmp_path / "new").glob("*.tar")
    before = archive.read_bytes()
    (kit / "requirements.lock").write_text("nowhere==1.0\n", encoding="utf-8")
    assert main(["pack", str(tmp_path / "new")]) == 1
    assert "pip could not get the packages" in capsys.readouterr().err
    assert archive.read_bytes() == before


def test_make_unpacks_an_archive_and_keeps_files_beside_it(kit, tmp_path):
    """`make run BUNDLE=…`; here without what comes after it."""
    pack(kit / "results" / "bundle")
    [archive] = (kit / "results" / "bundle").glob("*.tar")
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "notes.txt").write_text("mine", encoding="utf-8")
    make = ["make", "-C", str(tmp_path), "unpack", "PYTHON=true"]
    subprocess.run([*make, f"BUNDLE={archive}"], check=True, capture_output=True)
    check(tmp_path)
    assert (tmp_path / "bundle" / "notes.txt").read_text(encoding="utf-8") == "mine"
    archive.write_text("no archive", encoding="utf-8")
    refused = subprocess.run([*make, f"BUNDLE={archive}"], capture_output=True, text=True)
    assert refused.returncode and "is damaged or not a bundle" in refused.stdout
