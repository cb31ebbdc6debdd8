"""Folders that are written appear complete or not at all."""

import pytest

from counterpoise.io import atomic_folder


@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_is_replaced_as_a_whole(linked, tmp_path):
    target = tmp_path / "target"
    with atomic_folder(target) as first:
        (first / "old").touch()
    path = tmp_path / "link" if linked else target
    if linked:
        path.symlink_to(target, target_is_directory=True)
    with atomic_folder(path) as second:
        (second / "new").touch()
        assert (path / "old").exists()
    assert [file.name for file in target.iterdir()] == ["new"]
    assert path.is_symlink() == linked


def test_a_folder_is_unchanged_after_an_error(tmp_path):
    path = tmp_path / "some" / "folder"
    with atomic_folder(path) as first:
        (first / "old").touch()
    with pytest.raises(FileNotFoundError), atomic_folder(path) as second:
        (second / "missing").read_text()
    assert [file.name for file in path.iterdir()] == ["old"]
    assert list(path.parent.iterdir()) == [path]
