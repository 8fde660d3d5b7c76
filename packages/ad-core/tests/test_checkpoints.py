import torch

from ad.core.learning.checkpoints import Checkpoints


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    assert checkpoints.latest() is None
    for step in (3, 12, 100):
        checkpoints.save(step, {"x": torch.tensor([step])}, {"note": str(step)})
    assert sorted(p.name for p in (tmp_path / "checkpoint").iterdir()) == [
        "step-000000012", "step-000000100",
    ]  # fmt: skip
    tensors, state = checkpoints.latest()
    assert tensors["x"].item() == 100
    assert state == {"step": 100, "note": "100"}
    checkpoints.clear()
    assert checkpoints.latest() is None


def test_what_a_killed_save_left_is_no_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": torch.zeros(1)}, {})
    (tmp_path / ".step-000000002.abc.tmp").mkdir()
    assert checkpoints.latest()[1]["step"] == 1


def test_a_checkpoint_is_due_when_the_last_is_old_enough(tmp_path):
    assert not Checkpoints(tmp_path).due
    assert Checkpoints(tmp_path, every_seconds=0).due
