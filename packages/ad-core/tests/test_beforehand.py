"""What each run of a bench would refuse is refused before the first, with the same words."""

import pytest
from benches import planned
from wary import WaryTrainer

from ad.core import ModelRegistry, train
from ad.core.bench.beforehand import refuse_beforehand
from ad.core.errors import SettingError, WeightsError


@pytest.fixture
def wary(monkeypatch):
    monkeypatch.setattr(WaryTrainer, "built", [])
    numbers = {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": False}
    ModelRegistry.register("wary", "wary:WaryTrainer", {}, numbers)
    yield "wary"
    ModelRegistry.unregister("wary")


def test_a_model_that_cannot_be_built_is_refused_as_by_train(wary, mean_picture, roots, tmp_path):
    for model, kind in ((f"{wary}[odd=true]", SettingError), (wary, WeightsError)):
        jobs = planned(mean_picture, roots, tmp_path) + planned(model, roots, tmp_path)
        with pytest.raises(kind) as caught:
            refuse_beforehand(jobs, here=True)
        settings = jobs[-1].settings
        with pytest.raises(kind) as own:
            train("mvtec", "other", wary, data_root=roots, model=settings.options)
        expected = f"No run was begun: `{model}` cannot do `mvtec other`. {own.value}"
        assert str(caught.value) == expected


def test_a_model_is_built_once_on_the_cpu_and_for_others_without_weights(wary, roots, tmp_path):
    jobs = planned(wary, roots, tmp_path, device="cuda:7")
    assert len(jobs) == 4
    refuse_beforehand(jobs, here=False)  # by Ray, whose workers have the weights and the GPUs
    (setup,) = WaryTrainer.built
    assert (setup.device.type, setup.weights) == ("cpu", "random")


def test_a_damaged_picture_is_refused_but_not_of_runs_that_are_done(
    mean_picture, roots, tmp_path, run_ad
):
    damaged = min((roots / "toy/test/good").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:20])
    where = ("--data-root", roots, "--output", tmp_path / "out")
    status, _, said = run_ad("bench", "mvtec", "all", mean_picture, *where)
    assert status == 1
    assert f"error: No run was begun: `{mean_picture}` cannot do `mvtec toy`. " in said
    assert f"`{damaged}`" in said
    assert not (tmp_path / "out").exists()
    jobs = planned(mean_picture, roots, tmp_path / "out")
    for job in jobs[2:]:  # as if they had been done before it was damaged
        job.folder.mkdir(parents=True)
        (job.folder / "metrics.json").write_text("{}")
    refuse_beforehand(jobs, here=True)


def test_the_pictures_of_a_category_are_opened_once(mean_picture, roots, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(
        "ad.core.jobs.plan.check_pictures",
        lambda samples, **others: opened.append(samples[0].category) or [],
    )
    jobs = planned(mean_picture, roots, tmp_path)
    jobs += planned(f"{mean_picture}[gain=2]", roots, tmp_path)
    refuse_beforehand(jobs, here=True)
    assert opened == ["other", "toy"]
