"""Data that change or vanish while a run reads them: a clear error, or no effect."""

import pytest
from PIL import Image

from ad.core import Callback, ModelRegistry, load, train
from ad.core.errors import PictureError


@pytest.fixture
def linear_student():
    ModelRegistry.register(
        "linear-student",
        "ad.core.testing.linear_student:LinearStudentTrainer",
        {},
        {"num_epochs": 3, "batch_size": 4, "img_size": 32, "normalize": False},
    )
    yield "linear-student"
    ModelRegistry.unregister("linear-student")


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")
    return tmp_path / "run"


class Meanwhile(Callback):
    """Does something to the data when learning starts, or after its first epoch."""

    def __init__(self, act, hook):
        self.act, self.hook = act, hook

    def on_fit_start(self, state):
        if self.hook == "start":
            self.act()

    def on_epoch_end(self, state):
        if self.hook == "epoch" and state.epoch == 0:
            self.act()


def learning_and_held_out(toy_root):
    from ad.core.data.finding import collect
    from ad.core.data.mvtec import DATASET
    from ad.core.thresholds.held_out import hold_out

    samples = collect(DATASET, "toy", root=toy_root, seed=0)
    learning, held_out = hold_out(samples, 0.1, seed=0)
    return learning[0].path, held_out[0].path


@pytest.mark.parametrize("damage", ["vanishes", "breaks"])
def test_a_picture_that_changes_before_it_was_read_is_named(
    mean_picture, toy_root, tmp_path, damage
):
    path, _ = learning_and_held_out(toy_root)
    act = path.unlink if damage == "vanishes" else lambda: path.write_bytes(b"\x89PNG no more")
    words = "does not exist" if damage == "vanishes" else "cannot be read"
    with pytest.raises(PictureError, match=f"{path.name}` {words}"):
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run",
              callbacks=[Meanwhile(act, "start")])  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_pictures_that_change_after_they_were_read_change_nothing(
    linear_student, toy_root, tmp_path
):
    calm = train("mvtec", "toy", linear_student, data_root=toy_root, output_dir=tmp_path / "a")
    path, _ = learning_and_held_out(toy_root)

    def act():
        path.write_bytes(b"gone")

    disturbed = train("mvtec", "toy", linear_student, data_root=toy_root, callbacks=[
        Meanwhile(act, "epoch")], output_dir=tmp_path / "b")  # fmt: skip
    assert path.read_bytes() == b"gone"
    tensors = [(one.run / "model/model.safetensors").read_bytes() for one in (calm, disturbed)]
    assert tensors[0] == tensors[1]


def test_a_held_out_picture_that_vanishes_says_how_to_go_on(linear_student, toy_root, tmp_path):
    _, path = learning_and_held_out(toy_root)
    content = path.read_bytes()
    arguments = {"data_root": toy_root, "output_dir": tmp_path / "run"}
    with pytest.raises(PictureError, match=r"does not exist.\nhint: it was held out .*--resume "):
        train("mvtec", "toy", linear_student, **arguments, callbacks=[
            Meanwhile(path.unlink, "epoch")])  # fmt: skip
    path.write_bytes(content)
    result = train("mvtec", "toy", linear_student, **arguments, resume=tmp_path / "run")
    assert result.threshold is not None


def test_a_picture_that_vanishes_while_predicting_is_an_error_row(trained, toy_root):
    paths = sorted((toy_root / "toy/test/good").iterdir())
    detector = load(trained)
    findings = detector.stream(paths, batch_size=1)
    first = next(findings)
    Image.new("RGB", (8, 8)).save(paths[0])
    paths[-1].unlink()
    rest = [*findings]
    assert first.error is None
    assert len(rest) == len(paths) - 1
