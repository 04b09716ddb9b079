"""A job's folder: its marker, its lock, resuming."""

import multiprocessing

import pytest

from micse_utils.job import LOCK, MARKER, job

SETTINGS = {"seed": 7, "sizes": (64, 1000)}


def contents(folder):
    return {path.name for path in folder.iterdir()} - {LOCK}


def test_finished_work_is_found_again(tmp_path):
    with job(tmp_path / "new" / "work", SETTINGS) as work:
        assert work.record is None
        work.finish({"rows": 3})
    with job(tmp_path / "new" / "work", SETTINGS) as work:
        assert work.record == {"rows": 3}
    assert contents(work.folder) == {MARKER, "record.json"}


def test_interrupted_work_resumes_with_what_it_left(tmp_path):
    with pytest.raises(KeyboardInterrupt), job(tmp_path / "work", SETTINGS) as work:
        (work.folder / "half").touch()
        raise KeyboardInterrupt
    with job(tmp_path / "work", SETTINGS) as work:
        assert work.record is None and (work.folder / "half").exists()


def test_work_that_wrote_nothing_leaves_no_folder_of_its_own(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "one/in/another"):
        with pytest.raises(OSError, match="no model"), job(tmp_path / name, SETTINGS):
            raise OSError("no model")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("replaces", [None, ["model"]])
def test_a_folder_without_the_marker_is_refused_and_unchanged(tmp_path, replaces):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine", encoding="utf-8")
    refused, in_file = job(tmp_path, SETTINGS, replaces=replaces), tmp_path / "model" / "mine.txt"
    with pytest.raises(FileExistsError, match="no marker"), refused:
        pytest.fail("the work began")
    assert {path.name for path in tmp_path.rglob("*")} == {"model", "mine.txt"}
    with pytest.raises(OSError, match=r"mine\.txt"), job(in_file, SETTINGS):
        pytest.fail("the work began")


def test_a_link_to_a_folder_is_followed_and_a_broken_one_refused(tmp_path):
    (tmp_path / "disk").mkdir()
    for name in ("disk", "gone"):
        (tmp_path / f"to {name}").symlink_to(tmp_path / name)
    with job(tmp_path / "to disk", SETTINGS) as work:
        work.finish({})
    assert (tmp_path / "to disk").is_symlink() and (tmp_path / "disk" / MARKER).is_file()
    with pytest.raises(OSError, match="to gone"), job(tmp_path / "to gone", {}):
        pytest.fail("the work began")


def test_different_work_is_refused_or_replaced(tmp_path):
    with job(tmp_path, SETTINGS) as work:
        work.finish({})
    for name in ("model", "notes.txt"):
        (tmp_path / name).touch()
    changed = SETTINGS | {"seed": 8}
    with pytest.raises(ValueError, match=r"\(differing in seed\)"), job(tmp_path, changed):
        pytest.fail("the work began")
    with job(tmp_path, changed, replaces=["model"]) as work:
        assert work.record is None and contents(tmp_path) == {MARKER, "notes.txt"}


def hold(folder, ready, end):
    with job(folder, SETTINGS):
        ready.set()
        end.wait(60)


def holding(folder):
    """Start a process that holds a folder until its event is set."""
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    other = context.Process(target=hold, args=(folder, ready, end))
    other.start()
    assert ready.wait(60)
    return other, end


def test_two_processes_take_turns(tmp_path):
    other, end = holding(tmp_path)
    with pytest.raises(FileExistsError, match="another process"), job(tmp_path, SETTINGS):
        pytest.fail("the work began")
    end.set()
    with job(tmp_path, SETTINGS, wait=True) as work:
        assert work.record is None
    other.join()


def test_a_killed_process_frees_its_folder(tmp_path):
    other, _ = holding(tmp_path)
    other.kill()
    with job(tmp_path, SETTINGS, wait=True) as work:
        assert work.record is None
