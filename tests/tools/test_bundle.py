"""Packing and unpacking with small real files; wheels are built here, as pip would save them."""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hub_server import member, tar
from huggingface_hub import constants
from sources.test_packaged import wheel

from micse_utils import settings
from micse_utils.datasets.sts import load_sts
from micse_utils.sources import hub, packaged
from tools import bundle
from tools.bundle import BundleError, check, pack, unpack

ROOT = Path(__file__).parents[2]
WEIGHTS = b"weights " * 1000
COMMIT = "0" * 40
PREFIX = "micse-kit/bundle/"


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
    (tmp_path / "room").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shop"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return root


@pytest.fixture
def archive(kit, packed=[]):  # noqa: B006  pip is asked once for all tests
    if not packed:
        made = pack(kit / "results")
        packed[:] = made.name, made.read_bytes()
    (kit / "results").mkdir(exist_ok=True)
    (kit / "results" / packed[0]).write_bytes(packed[1])
    return kit / "results" / packed[0]


def no_pip(command, **options):
    assert "pip" not in command
    return RUN(command, **options)


RUN = subprocess.run


def names(archive):
    with tarfile.open(archive) as tar:
        return {member.name.removeprefix("micse-kit/") for member in tar}


def rewritten(archive, change):
    """The archive with members changed, dropped (None) or added by `change(name, content)`."""
    with tarfile.open(archive) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(archive, "w") as tar:
        for member, content in members:
            for new, data in change(member, content):
                new.size = len(data)
                with_content = archive.parent / "content"
                with_content.write_bytes(data)
                with with_content.open("rb") as stream:
                    tar.addfile(new, stream if new.isreg() else None)
    return archive


def with_list(archive, **changes):
    """The archive with some entries of its list changed."""

    def change(member, content):
        if member.name == PREFIX + "bundle.json":
            content = json.dumps(json.loads(content) | changes).encode()
        yield member, content

    return rewritten(archive, change)


def test_the_archive_holds_kit_wheels_and_weights_and_names_its_machine(archive):
    assert names(archive) == {
        *("Makefile", "requirements.lock", ".gitignore", "micse_utils/code.py"),
        *("bundle/bundle.json", "bundle/cache/encoder/model.bin"),
        "bundle/wheels/thing-1.0-py3-none-any.whl",
    }
    python = "{}.{}".format(*sys.version_info)
    assert archive.name.endswith(f"-python{python}.tar") and sys.platform in archive.name


def test_what_is_packed_comes_out_and_installs_without_an_index(archive, tmp_path):
    unpack(archive, tmp_path)
    assert (tmp_path / "bundle" / "cache" / "encoder" / "model.bin").read_bytes() == WEIGHTS
    check(tmp_path)
    command = [sys.executable, "-m", "pip", "install", "--isolated", "--no-index", "--quiet"]
    command += [f"--find-links={tmp_path / 'bundle' / 'wheels'}", f"--target={tmp_path / 'site'}"]
    subprocess.run([*command, "thing==1.0"], check=True)
    assert "42" in (tmp_path / "site" / "thing" / "__init__.py").read_text(encoding="utf-8")


def test_unpacked_by_tar_the_folder_is_a_kit_with_its_bundle(archive, tmp_path):
    subprocess.run(["tar", "xf", archive], cwd=tmp_path, check=True)
    check(tmp_path / "micse-kit")
    assert (tmp_path / "micse-kit" / "Makefile").is_file()


def test_an_archive_that_is_up_to_date_is_left_alone(archive, kit, monkeypatch, capsys):
    before = archive.stat()
    monkeypatch.setattr(bundle.subprocess, "run", no_pip)
    assert pack(kit / "results") == archive
    assert archive.stat().st_ino == before.st_ino
    assert "up to date" in capsys.readouterr().out


def test_an_edited_kit_is_packed_again_with_the_wheels_of_the_last_archive(
    archive, kit, monkeypatch
):
    (kit / "micse_utils" / "code.py").write_text("print(1)\n", encoding="utf-8")
    monkeypatch.setattr(bundle.subprocess, "run", no_pip)
    pack(kit / "results")
    with tarfile.open(archive) as tar:
        assert tar.extractfile("micse-kit/micse_utils/code.py").read() == b"print(1)\n"
    assert "bundle/wheels/thing-1.0-py3-none-any.whl" in names(archive)


def test_a_different_lock_asks_pip_again(archive, kit, tmp_path, monkeypatch):
    wheel(tmp_path / "shop", "other", {"other/__init__.py": b""})
    (kit / "requirements.lock").write_text("other==1.0\n", encoding="utf-8")
    pack(kit / "results")
    assert {n for n in names(archive) if "wheels" in n} == {
        "bundle/wheels/other-1.0-py3-none-any.whl"
    }


def test_wheels_that_cannot_be_had_leave_the_last_archive(archive, kit, monkeypatch):
    before = archive.read_bytes()
    (kit / "requirements.lock").write_text("nowhere==1.0\n", encoding="utf-8")
    with pytest.raises(BundleError, match=r"pip could not get the packages of requirements\.lock"):
        pack(kit / "results")
    assert archive.read_bytes() == before and [archive] == list((kit / "results").iterdir())


def test_models_from_the_hub_are_packed_and_found_without_it(kit, tmp_path, monkeypatch):
    """The cache as the hub's client leaves it: files are links to blobs."""
    cached = tmp_path / "hub" / "models--sap-ai-research--miCSE"
    (cached / "blobs").mkdir(parents=True)
    (cached / "blobs" / "blob").write_bytes(WEIGHTS)
    (cached / "snapshots" / COMMIT).mkdir(parents=True)
    (cached / "snapshots" / COMMIT / "config.json").symlink_to("../../blobs/blob")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    (tmp_path / "hub" / "models--somebody--private" / "refs").mkdir(parents=True)
    unpack(pack(kit / "results"), kit)
    assert {path.name for path in (kit / "bundle" / "hub").iterdir()} == {cached.name}

    monkeypatch.setattr(hub, "BUNDLE", kit / "bundle")
    monkeypatch.setattr(hub, "hub_problem", lambda: "no network")
    shutil.rmtree(tmp_path / "hub")
    folder, commit = hub.snapshot("sap-ai-research/miCSE", ["*.json"])
    assert (folder / "config.json").read_bytes() == WEIGHTS
    assert commit == COMMIT


def test_sentevals_archive_is_packed_and_read_without_the_hub(kit, tmp_path, monkeypatch):
    cached = tmp_path / "hub" / "datasets--princeton-nlp--datasets-for-simcse"
    rows = b"pair\tA\tB\tscore\tjudgment\n1\ta cat\ta dog\t3.5\tNEUTRAL\n"
    content = tar(member("SICK/SICK_test_annotated.txt", rows))
    files = {"refs/main": COMMIT.encode(), f"snapshots/{COMMIT}/senteval.tar": content}
    for name, text in files.items():
        (cached / name).parent.mkdir(parents=True)
        (cached / name).write_bytes(text)
    unpack(pack(kit / "results"), kit)

    monkeypatch.setattr(hub, "BUNDLE", kit / "bundle")
    monkeypatch.setattr(hub, "hub_problem", lambda: "no network")
    monkeypatch.setenv("MICSE_CACHE", str(tmp_path / "room"))
    shutil.rmtree(tmp_path / "hub")
    pairs = load_sts("SICKRelatedness", source="hub")
    assert (pairs.first, pairs.second, pairs.gold.tolist()) == (["a cat"], ["a dog"], [3.5])
    assert pairs.provenance.revision == COMMIT


def test_the_unpacked_bundle_is_the_cache_unless_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "BUNDLE", tmp_path)
    monkeypatch.delenv("MICSE_CACHE", raising=False)
    assert settings.cache_folder() != tmp_path / "cache"
    (tmp_path / "cache").mkdir()
    assert settings.cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("MICSE_CACHE", str(tmp_path / "mine"))
    assert settings.cache_folder() == tmp_path / "mine"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"python": "3.99"}, r"PYTHON=python3\.99"),
        ({"system": "plan9-vax"}, "plan9-vax"),
        ({"files": {"requirements.lock": "0"}}, r"requirements\.lock"),
        ({"installed": 10**15}, r"1000000\.0 GB"),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused_in_one_sentence(archive, changes, reason, tmp_path):
    with pytest.raises(BundleError, match=reason) as refused:
        unpack(with_list(archive, **changes), tmp_path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("here", "reason"),
    [(("glibc", "2.28"), r"2\.34 .* 2\.28"), (("", ""), r"2\.34"), (("glibc", "2.34"), None)],
)
def test_wheels_for_a_newer_linux_are_refused_before_pip_is(
    archive, here, reason, tmp_path, monkeypatch
):
    unpack(archive, tmp_path)
    record = json.loads((tmp_path / "bundle" / "bundle.json").read_text(encoding="utf-8"))
    for name in (
        "bundle/wheels/a-1-cp311-cp311-manylinux_2_34_x86_64.whl",
        "bundle/wheels/b-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        "bundle/wheels/c-1-py3-none-manylinux_2_17_x86_64.manylinux_2_40_x86_64.whl",
    ):
        (tmp_path / name).write_bytes(b"")
        record["files"][name] = hashlib.sha256(b"").hexdigest()
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.setattr(bundle.platform, "libc_ver", lambda: here)
    if reason is None:
        check(tmp_path)
    else:
        with pytest.raises(BundleError, match=reason):
            check(tmp_path)


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"usb\.tar"):
        unpack(tmp_path / "usb.tar", tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3])
def test_an_archive_that_was_cut_off_is_refused(archive, share, tmp_path):
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BundleError, match="damaged"):
        unpack(archive, tmp_path)
    assert not (tmp_path / "bundle").exists()
    assert not list(tmp_path.glob(".bundle-*"))


def test_a_flipped_bit_is_noticed_and_the_last_bundle_is_kept(archive, tmp_path):
    unpack(archive, tmp_path)
    with_list(archive, note="another list, so that it is unpacked anew")
    content = archive.read_bytes()
    archive.write_bytes(content.replace(WEIGHTS, b"W" + WEIGHTS[1:]))
    with pytest.raises(BundleError, match=r"model\.bin is damaged or missing"):
        unpack(archive, tmp_path)
    check(tmp_path)


def test_an_unpacked_bundle_that_was_damaged_is_noticed(archive, tmp_path):
    unpack(archive, tmp_path)
    (tmp_path / "bundle" / "cache" / "encoder" / "model.bin").unlink()
    with pytest.raises(BundleError, match=r"model\.bin is damaged or missing"):
        check(tmp_path)
    (tmp_path / "bundle" / "bundle.json").write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match=r"bundle\.json is damaged or missing"):
        check(tmp_path)


@pytest.mark.parametrize("name", ["../out", "/out", "cache/../../out", "c:out", "..\\out"])
def test_a_name_that_leads_out_is_refused_and_nothing_is_written(archive, name, tmp_path):
    def change(member, content):
        if member.name == PREFIX + "bundle.json":
            record = json.loads(content)
            record["files"] = {f"bundle/{name}": "0", **record["files"]}
            content = json.dumps(record).encode()
            evil = tarfile.TarInfo(PREFIX + name)
            yield evil, b"evil"
        yield member, content

    with pytest.raises(BundleError):
        unpack(rewritten(archive, change), tmp_path / "room")
    assert not list(tmp_path.rglob("out"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_pipes_are_refused(archive, kind, tmp_path):
    def change(member, content):
        if member.name.endswith("model.bin"):
            member.type, member.linkname, content = kind, "/etc/passwd", b""
        yield member, content

    with pytest.raises(BundleError, match="damaged"):
        unpack(rewritten(archive, change), tmp_path)


def test_members_that_the_list_does_not_name_are_not_unpacked(archive, tmp_path):
    def change(member, content):
        yield member, content
        yield tarfile.TarInfo("../escaped"), b"evil"
        yield tarfile.TarInfo(PREFIX + "unlisted"), b"evil"

    unpack(rewritten(archive, change), tmp_path / "room")
    assert not [*tmp_path.rglob("escaped"), *tmp_path.rglob("unlisted")]


def test_a_full_disk_is_reported_and_leaves_nothing(archive, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile, "copyfileobj", full)
    with pytest.raises(BundleError, match="No space left on device"):
        unpack(archive, tmp_path / "room")
    assert not list((tmp_path / "room").iterdir())


def test_files_of_the_user_in_the_bundles_folder_are_kept(archive, kit, tmp_path):
    (tmp_path / "bundle" / "cache").mkdir(parents=True)
    (tmp_path / "bundle" / "notes.txt").write_text("mine", encoding="utf-8")
    unpack(archive, tmp_path)
    (tmp_path / "bundle" / "cache" / "more.bin").write_text("mine, too", encoding="utf-8")
    (kit / "micse_utils" / "code.py").write_text("print(1)\n", encoding="utf-8")
    unpack(pack(kit / "results"), tmp_path)
    check(tmp_path)
    assert (tmp_path / "bundle" / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert (tmp_path / "bundle" / "cache" / "more.bin").read_text(encoding="utf-8") == "mine, too"


def test_wheels_of_an_earlier_lock_do_not_pile_up(archive, tmp_path):
    """The kit was updated, then the archive that belongs to it was unpacked."""
    unpack(archive, tmp_path)
    kept = (tmp_path / "bundle" / "wheels" / "mine-1.0.whl", tmp_path / "bundle" / "notes.txt")
    old = tmp_path / "bundle" / "wheels" / "thing-0.9-py3-none-any.whl"
    for file in (*kept, old):
        file.write_bytes(b"0")
    record = json.loads((tmp_path / bundle.LIST).read_text(encoding="utf-8"))
    record["files"] |= {f"bundle/wheels/{old.name}": "0", "requirements.lock": "0"}
    (tmp_path / bundle.LIST).write_text(json.dumps(record), encoding="utf-8")
    unpack(archive, tmp_path)
    check(tmp_path)
    assert not old.exists()
    assert [file.read_bytes() for file in kept] == [b"0", b"0"]


def test_a_call_that_is_cut_off_among_the_files_loses_none_of_the_users(
    archive, kit, tmp_path, monkeypatch
):
    unpack(archive, tmp_path)
    (mine := tmp_path / "bundle" / "notes.txt").write_text("mine", encoding="utf-8")
    (kit / "micse_utils" / "code.py").write_text("print(1)\n", encoding="utf-8")
    newer = pack(kit / "results")
    replace = Path.replace
    for calls in range(3):

        def cut_off(path, target, left=[calls]):  # noqa: B006  counts the calls of one round
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", cut_off)
        with pytest.raises(KeyboardInterrupt):
            unpack(newer, tmp_path)
        monkeypatch.setattr(Path, "replace", replace)
        assert mine.read_text(encoding="utf-8") == "mine"
    unpack(newer, tmp_path)
    check(tmp_path)
    assert mine.read_text(encoding="utf-8") == "mine"


def test_a_file_that_is_no_archive_is_not_overwritten(archive, kit):
    archive.write_text("mine", encoding="utf-8")
    with pytest.raises(BundleError, match=re.escape(str(archive))):
        pack(kit / "results")
    assert archive.read_text(encoding="utf-8") == "mine"


def test_what_a_killed_call_left_is_removed_by_the_next(archive, tmp_path):
    (tmp_path / ".bundle-killed" / "bundle").mkdir(parents=True)
    unpack(archive, tmp_path)
    assert not list(tmp_path.glob(".bundle-*"))


def test_a_bundle_that_is_up_to_date_is_left_alone(archive, tmp_path, capsys):
    unpack(archive, tmp_path)
    before = (tmp_path / "bundle").stat().st_ino
    unpack(archive, tmp_path)
    assert (tmp_path / "bundle").stat().st_ino == before
    assert capsys.readouterr().out.count("Unpacking") == 1


def test_a_bare_python_can_unpack():
    """No site-packages: what runs before the installation may import nothing that is installed."""
    command = [sys.executable, "-I", "-S", "-c"]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tools import bundle; "
    code += "sys.exit(bundle.main(['unpack', 'no-such.tar']))"
    done = subprocess.run([*command, code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("there is no archive no-such.tar")
