"""The checkpoint to resume from is saved in time, is checked, and has a predecessor."""

import random
from pathlib import Path

import pytest
import torch

from counterpoise.errors import UserError
from counterpoise.io import atomic_path, remove_unfinished
from counterpoise.training.checkpoints import AtomicCheckpointIO, damage, load_checkpoint
from counterpoise.training.last_checkpoint import checkpoint_to_resume


@pytest.fixture
def saved(tmp_path) -> Path:
    """The folder of a run with two checkpoints."""
    for step in (1, 2):
        checkpoint = {"weights": torch.arange(300.0), "bias": torch.ones(5), "step": step}
        AtomicCheckpointIO().save_checkpoint(checkpoint, tmp_path / "checkpoints/last.ckpt")
    return tmp_path


def resumed_step(folder: Path, ckpt: str = "last") -> int:
    found = checkpoint_to_resume(ckpt, folder)
    assert found
    return load_checkpoint(found)["step"]


def test_the_last_checkpoint_of_the_run_folder_is_found(saved, tmp_path, capsys):
    assert resumed_step(saved) == 2
    assert "last.ckpt" in capsys.readouterr().out
    assert resumed_step(tmp_path / "elsewhere", str(saved / "checkpoints/last.ckpt")) == 2
    assert sorted(path.name for path in (saved / "checkpoints").iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_a_folder_without_a_checkpoint_starts_afresh_and_says_so(tmp_path, capsys):
    assert checkpoint_to_resume("last", tmp_path) is None
    assert "from the beginning" in capsys.readouterr().out


def test_any_changed_bit_and_any_truncation_is_noticed_or_harmless(saved):
    path = saved / "checkpoints/last.ckpt"
    content, sound = path.read_bytes(), load_checkpoint(path)
    bits = random.Random(0)
    noticed = 0
    for number in range(400):
        changed = bytearray(content)
        if number % 4:
            changed[bits.randrange(len(changed))] ^= 1 << bits.randrange(8)
        else:
            del changed[bits.randrange(len(changed)) :]
        path.write_bytes(changed)
        try:
            loaded = load_checkpoint(path)
        except UserError:
            noticed += 1
        else:
            assert number % 4
            assert all(torch.equal(loaded[name], sound[name]) for name in ("weights", "bias"))
    assert noticed > 250


@pytest.mark.parametrize("harm", ["flipped bit", "truncated", "empty", "missing"])
def test_a_damaged_checkpoint_is_replaced_by_the_previous_one_with_a_notice(harm, saved, caplog):
    path = saved / "checkpoints/last.ckpt"
    content = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    else:
        content[len(content) // 2] ^= 4
        path.write_bytes({"flipped bit": content, "truncated": content[:-100], "empty": b""}[harm])
    for ckpt in ("last", str(path)):
        caplog.clear()
        assert resumed_step(saved, ckpt) == 1
        assert "previous.ckpt" in caplog.text


def test_without_a_sound_checkpoint_the_run_is_refused_rather_than_started_afresh(saved):
    for name in ("last.ckpt", "previous.ckpt"):
        (saved / "checkpoints" / name).write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        resumed_step(saved)
    assert damage(saved / "checkpoints/last.ckpt")


def test_files_that_a_kill_left_unfinished_are_removed_and_no_others(saved):
    folder = saved / "checkpoints"
    with atomic_path(folder / "last.ckpt") as left:
        left.write_bytes(b"half")
        kept = left.read_bytes()
    (folder / "last.ckpt").write_bytes(b"whole")
    left.write_bytes(kept)
    others = [folder / name for name in (".hidden", ".cache.json", "last.0123abcd.ckpt")]
    for other in others:
        other.touch()
    assert remove_unfinished(folder) == [left]
    assert not left.exists()
    assert all(other.exists() for other in others)
