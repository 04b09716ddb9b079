import pytest

from micse_utils.settings import KIT_DATA, cache_folder, folder_setting, setting


def test_the_kits_own_data_is_found():
    assert (KIT_DATA / "manifest.toml").is_file()


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("MICSE_DEVICE", "")
    assert setting("MICSE_DEVICE") is None


def test_an_unknown_setting_is_refused_with_the_known_ones():
    with pytest.raises(KeyError, match=r"MICSE_TYPO is not a setting.*MICSE_CACHE"):
        setting("MICSE_TYPO")


def test_the_cache_folder_follows_its_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("MICSE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def test_a_data_folder_that_is_none_is_refused_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("MICSE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(NotADirectoryError, match="nowhere is not a folder"):
        folder_setting("MICSE_DATA")
