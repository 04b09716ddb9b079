from micse_utils.sources.locate import absolute


def test_a_folder_named_on_the_command_line_means_the_same_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "hub").mkdir()
    monkeypatch.chdir(tmp_path)
    assert absolute("mine") == absolute("./mine") == str(tmp_path / "mine")
    assert absolute("hub") == "hub"  # the word, although there is a folder of that name
    assert absolute("owner/repository") == "owner/repository"
