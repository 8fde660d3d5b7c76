"""Two processes, real models: one pass is as with one, descent as with shared batches."""

import json

import numpy as np
import pytest
import torch
import warm

from ad.core import LearningData, PictureSet, Setup, train
from ad.core.saved.files import read_model
from ad.core.testing import make_picture, write_mvtec_tree
from ad.distill.stfpm import StfpmTrainer

SIZE = 64
STEPS = 4
ONE_PASS = {
    "padim-resnet18": {"n_features": 20},
    "patchcore-resnet18": {"coreset_ratio": 0.05},
}

PROGRAM = """
import json, sys
import torch
from ad.core import train
from ad.core.data.batches import PictureSet
from ad.core.learning.distributed import end_process, join_world
from ad.core.saved.files import save_tensors
from ad.core.learning.loop import fit
from ad.core.testing.pictures import make_picture
from ad.core.trainer import Setup
from ad.distill.stfpm import StfpmTrainer
from pathlib import Path

root, out, size, steps, one_pass = sys.argv[1:]
size, steps = int(size), int(steps)
for model, options in json.loads(one_pass).items():
    train("mvtec", "toy", model, data_root=root, output_dir=f"{out}/{model}", weights="random",
          img_size=size, batch_size=4, model=options)
world = join_world()
setup = Setup(img_size=size, normalize=True, num_steps=steps, batch_size=4, weights="random")
trainer = StfpmTrainer(setup, backbone="resnet18", layers=("layer1", "layer2"))
fit(trainer, PictureSet([make_picture(i, size=size)[0] for i in range(10)], size), world=world)
save_tensors(Path(out) / f"stfpm-{world.rank}", trainer.detector.state_dict(), {})
end_process(0)
"""


def accumulated():
    """STFPM by one process that takes each batch in two parts, as two processes share it."""
    setup = Setup(img_size=SIZE, normalize=True, num_steps=STEPS, batch_size=4, weights="random")
    trainer = StfpmTrainer(setup, backbone="resnet18", layers=("layer1", "layer2"))
    pictures = PictureSet([make_picture(i, size=SIZE)[0] for i in range(10)], SIZE)
    data = LearningData(pictures, setup.device, trainer.frozen)
    trainer.prepare(data)
    (optimization,) = trainer.optimizers(STEPS)
    (group,) = optimization.optimizer.param_groups
    rate = group["lr"]
    student = trainer.detector
    student.train()
    order = []
    for epoch in range(2):
        order.append(np.random.default_rng((setup.seed, 0, epoch)).permutation(10).tolist())
    batches = [order[0][:4], order[0][4:8], order[0][8:], order[1][:4]]
    for step, rows in enumerate(batches):
        before = {name: buffer.clone() for name, buffer in student.named_buffers()}
        counted = {name: torch.zeros_like(buffer) for name, buffer in before.items()}
        optimization.optimizer.zero_grad()
        for part in (rows[::2], rows[1::2]):
            for name, buffer in student.named_buffers():
                buffer.copy_(before[name])
            (batch,) = data.batches(len(part), order=part)
            losses = trainer.losses(batch)
            (sum(losses.values()) * len(part) / len(rows)).backward()
            for name, buffer in student.named_buffers():
                if buffer.is_floating_point():
                    counted[name] += buffer * len(part) / len(rows)
                else:
                    counted[name] = buffer.clone()
        for name, buffer in student.named_buffers():
            buffer.copy_(counted[name])
        group["lr"] = rate * optimization.schedule(step)
        optimization.optimizer.step()
    return student.state_dict()


@pytest.mark.slow
def test_two_processes_are_one_in_one_pass_and_shared_batches_by_gradient(tmp_path):
    root = write_mvtec_tree(tmp_path / "data", size=SIZE)
    said, words = tmp_path / "said", (root, tmp_path, SIZE, STEPS, json.dumps(ONE_PASS))
    assert warm.run_together(PROGRAM, *words, said=said) == [0, 0], said.read_text()
    for model, options in ONE_PASS.items():
        one = train("mvtec", "toy", model, data_root=root, output_dir=tmp_path / f"{model}-one",
                    weights="random", img_size=SIZE, batch_size=4, model=options)  # fmt: skip
        ours, theirs = read_model(tmp_path / model / "model")[0], read_model(one.run / "model")[0]
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5)
        metrics = json.loads((tmp_path / model / "metrics.json").read_text())["metrics"]
        assert metrics == pytest.approx(one.metrics, rel=1e-4)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as there: with a rate of 0.4, rounding grows tenfold each step
    expected = accumulated()
    torch.set_num_threads(threads)
    first, second = (read_model(tmp_path / f"stfpm-{rank}")[0] for rank in range(2))
    for name, tensor in expected.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-6)
