from __future__ import annotations

import contextlib
import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ad.core import Setup, load, train
from ad.core.cli import main
from ad.core.errors import DataError, ModelFileError, NotFittedError, SettingError
from ad.core.saved.files import read_config, rewrite_config
from ad.core.saved.loading import load_tensors
from ad.core.testing.pictures import write_mvtec_tree
from ad.memory import patchcore
from ad.memory.coreset import k_center_greedy, project
from ad.memory.patchcore import PatchcoreDetector, PatchcoreTrainer

SIZE = 32  # pixels; 4 x 4 patches


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def trainer(*, seed: int = 0, **options: Any) -> PatchcoreTrainer:  # noqa: ANN401
    setup = Setup(img_size=SIZE, normalize=True, weights="random", seed=seed)
    return PatchcoreTrainer(setup, **{"backbone": "resnet18", "coreset_ratio": 0.5, **options})


def fitted(images: Tensor, **options: Any) -> PatchcoreDetector:  # noqa: ANN401
    one_pass = trainer(**options)
    one_pass.begin(len(images))
    for batch in images.split(4):
        one_pass.observe(one_pass.extract(batch))
    one_pass.conclude()
    return one_pass.detector


@pytest.mark.parametrize("embedding", ["pooled", "concatenated"])
def test_scores_are_distances_to_the_nearest_remembered_patch(embedding: str) -> None:
    detector = fitted(noise(6, 3, SIZE, SIZE), embedding=embedding)
    images = noise(3, 3, SIZE, SIZE, seed=1)

    prediction = detector(images)

    patches, bank = detector.embed(images).double(), detector.memory.bank.double()
    distances = torch.cdist(patches.flatten(0, 2), bank).amin(1).view(3, 4, 4)
    up = F.interpolate(distances[:, None], size=(SIZE, SIZE), mode="bilinear")[:, 0]
    expected = torch.stack([torch.from_numpy(gaussian_filter(m, 4.0)) for m in up.numpy()])
    torch.testing.assert_close(prediction.score.double(), distances.amax((1, 2)), rtol=1e-5, atol=0)
    assert prediction.map is not None
    torch.testing.assert_close(prediction.map.double(), expected, rtol=1e-5, atol=0)


def test_cells_that_a_region_does_not_hear_of_are_not_remembered() -> None:
    looked_at = np.zeros((128, 128), bool)
    looked_at[:, :8] = True  # the first of 16 columns; smoothing and a cell reach 3 further
    setup = Setup(img_size=128, normalize=True, weights="random", looked_at=looked_at)
    images = noise(3, 3, 128, 128)
    one_pass = PatchcoreTrainer(setup, backbone="resnet18", coreset_ratio=1.0)
    one_pass.begin(len(images))
    one_pass.observe(one_pass.extract(images))
    one_pass.conclude()
    detector = one_pass.detector
    patches = detector.embed(images)[:, :, :4].flatten(0, 2).half()
    in_order = [rows[rows.double().sum(1).argsort()] for rows in (detector.memory.bank, patches)]
    torch.testing.assert_close(*in_order)

    # The map inside is as if all were remembered: nothing unknown is smoothed into it.
    setup = Setup(img_size=128, normalize=True, weights="random")
    whole = PatchcoreTrainer(setup, backbone="resnet18", coreset_ratio=1.0)
    whole.begin(len(images))
    whole.observe(whole.extract(images))
    whole.conclude()
    inside, all_of_it = detector(images).map, whole.detector(images).map
    assert inside is not None
    assert all_of_it is not None
    torch.testing.assert_close(inside[:, :, :8], all_of_it[:, :, :8], rtol=1e-3, atol=1e-3)
    assert inside[:, :, 64:].mean() > 10 * inside[:, :, :8].mean()


def test_several_neighbours_are_averaged() -> None:
    images = noise(6, 3, SIZE, SIZE)
    detector = fitted(images, n_neighbors=3)

    score = detector(images[:2] * 0.5).score

    patches = detector.embed(images[:2] * 0.5).flatten(1, 2).double()
    distances = torch.cdist(patches, detector.memory.bank.double())
    expected = distances.topk(3, largest=False).values.mean(2).amax(1)
    torch.testing.assert_close(score.double(), expected, rtol=1e-5, atol=0)


def test_a_defect_scores_higher_than_what_was_seen_and_is_found_where_it_is() -> None:
    images = 0.4 + 0.2 * noise(8, 3, 64, 64)
    detector = fitted(images, coreset_ratio=1.0, layers=("layer1", "layer2"))
    defect = images[:1].clone()
    defect[:, :, 40:56, 8:24] = 1.0

    good, bad = detector(images[1:2]), detector(defect)

    assert bad.score > 2 * good.score
    assert bad.map is not None
    row, column = divmod(int(bad.map.argmax()), 64)
    assert 40 <= row < 56
    assert 8 <= column < 24


def test_remembered_patches_are_the_greedy_choice_among_all() -> None:
    images = noise(6, 3, SIZE, SIZE)

    detector = fitted(images, seed=5, coreset_ratio=0.25)

    patches = detector.embed(images).flatten(0, 2).half()
    chosen = k_center_greedy(project(patches, seed=5), 24, seed=5)
    torch.testing.assert_close(detector.memory.bank, patches[chosen], rtol=1e-3, atol=1e-4)


def test_without_projection_the_patches_themselves_are_compared() -> None:
    images = noise(6, 3, SIZE, SIZE)

    detector = fitted(images, coreset_ratio=0.25, proj_dim=0)

    patches = detector.embed(images).flatten(0, 2).half()
    chosen = k_center_greedy(patches, 24)
    torch.testing.assert_close(detector.memory.bank, patches[chosen], rtol=1e-3, atol=1e-4)


def in_folds(one_pass: PatchcoreTrainer, folds: list[list[Tensor]]) -> list[Tensor] | None:
    """Banks of detectors that each learn from all folds but one; each fold is some batches."""
    given = [(sum(map(len, batches)), iter(batches)) for batches in folds]
    found = one_pass.fit_folds(given)
    return None if found is None else [detector.memory.bank for detector in found]


@pytest.mark.parametrize("options", [{}, {"proj_dim": 4}, {"coreset_ratio": 0.01}], ids=str)
def test_folds_remember_what_trainers_of_their_own_would(options: dict[str, Any]) -> None:
    patches = [noise(count, 4, 4, 8, seed=count) for count in (2, 1, 3)]
    folds = [[patches[0]], [patches[1]], [patches[2][:2], patches[2][2:]]]
    looked_at = np.zeros((SIZE, SIZE), bool)
    looked_at[:, :1] = True  # a blur reaches all columns but the last
    setup = Setup(img_size=SIZE, normalize=True, weights="random", seed=5, looked_at=looked_at)

    def fresh() -> PatchcoreTrainer:
        return PatchcoreTrainer(setup, backbone="resnet18", **{"coreset_ratio": 0.5, **options})

    found = in_folds(fresh(), folds)

    assert found is not None
    for own, bank in enumerate(found):
        alone = fresh()
        others = [batch for number in range(3) if number != own for batch in folds[number]]
        alone.begin(sum(map(len, others)))
        for batch in others:
            alone.observe(batch)
        alone.conclude()
        assert torch.equal(bank, alone.detector.memory.bank)


@pytest.mark.parametrize(
    "options", [{"coreset": "random"}, {"coreset": "kmeans"}, {"coreset_ratio": 1.0}], ids=str
)
def test_folds_of_other_coresets_are_fitted_apart(options: dict[str, Any]) -> None:
    assert in_folds(trainer(**options), [[noise(1, 4, 4, 8)]] * 3) is None


def test_folds_of_more_patches_than_can_be_kept_are_fitted_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patchcore, "MAX_PATCHES", 47)
    assert in_folds(trainer(), [[noise(1, 4, 4, 8)]] * 3) is None
    monkeypatch.setattr(patchcore, "MAX_PATCHES", 48)
    assert in_folds(trainer(), [[noise(1, 4, 4, 8)]] * 3) is not None


def test_a_fold_whose_others_have_no_digits_in_float16_is_refused() -> None:
    flat = [1e-7 * noise(1, 4, 4, 8)]
    with pytest.raises(DataError, match=r"No feature is larger than 1e-07: patches are stored in"):
        in_folds(trainer(), [[noise(1, 4, 4, 8)], flat, flat])


@pytest.mark.parametrize("coreset", ["greedy", "random", "kmeans"])
def test_every_coreset_holds_the_asked_number_of_original_patches(coreset: str) -> None:
    images = noise(6, 3, SIZE, SIZE)

    detector = fitted(images, coreset=coreset, coreset_ratio=0.3)

    patches = detector.embed(images).flatten(0, 2)
    nearest = torch.cdist(detector.memory.bank.double(), patches.double()).min(1)
    assert len(detector.memory.bank) == int(0.3 * 6 * 16)
    assert len(set(nearest.indices.tolist())) == len(detector.memory.bank)
    assert nearest.values.max() < 1e-3 * patches.norm(dim=1).mean()


def test_a_tiny_ratio_still_remembers_one_patch() -> None:
    assert len(fitted(noise(2, 3, SIZE, SIZE), coreset_ratio=1e-6).memory.bank) == 1


@pytest.mark.parametrize("coreset", ["greedy", "random", "kmeans"])
def test_one_seed_gives_one_bank(coreset: str) -> None:
    images = noise(4, 3, SIZE, SIZE)

    first = fitted(images, coreset=coreset, seed=1).memory.bank

    assert torch.equal(first, fitted(images, coreset=coreset, seed=1).memory.bank)


@pytest.mark.parametrize("score", ["max", "reweight"])
def test_a_batch_of_one_agrees_with_a_batch_of_eight(score: str) -> None:
    detector = fitted(noise(4, 3, SIZE, SIZE), score=score)
    images = noise(8, 3, SIZE, SIZE, seed=1)

    together = detector(images)
    alone = [detector(image[None]) for image in images]

    assert together.map is not None
    for number, single in enumerate(alone):
        assert single.map is not None
        torch.testing.assert_close(single.score[0], together.score[number], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(single.map[0], together.map[number], rtol=1e-4, atol=1e-4)


def test_reweighting_follows_equation_7() -> None:
    detector = fitted(noise(4, 3, SIZE, SIZE), score="reweight")
    images = noise(2, 3, SIZE, SIZE, seed=1)

    score = detector(images).score

    bank = detector.memory.bank.double()
    for image, found in zip(images, score, strict=True):
        patches = detector.embed(image[None]).flatten(0, 2).double()
        distances = torch.cdist(patches, bank)
        worst = distances.amin(1).argmax()
        nearest = distances[worst].argmin()
        around = torch.cdist(bank[nearest][None], bank)[0].topk(9, largest=False).indices
        share = distances[worst, nearest].exp() / distances[worst, around].exp().sum()
        expected = (1 - share) * distances[worst, nearest]
        assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("scale", [1.0, 100.0])  # exp(100) is infinite in float32
def test_reweighting_takes_off_one_part_of_b_when_all_b_are_equally_far(scale: float) -> None:
    detector = trainer(score="reweight").detector
    corners = torch.zeros(9, 1024)
    corners[torch.arange(9), torch.arange(9)] = 2 * scale
    detector.memory.remember(corners)
    patch = torch.zeros(1, 1024)

    distance, nearest = detector.memory(patch)
    score = detector._reweighted(patch, distance[:, 0], distance[:, 0], nearest[:, 0])

    assert distance.item() == pytest.approx(2 * scale)
    assert score.item() == pytest.approx((1 - 1 / 9) * 2 * scale, rel=1e-5)


def test_reweighting_counts_the_nearest_patch_even_among_many_equal_ones() -> None:
    detector = trainer(score="reweight").detector
    detector.memory.remember(torch.ones(40, 1024))
    patch = torch.zeros(1, 1024)

    distance, nearest = detector.memory(patch)
    score = detector._reweighted(patch, distance[:, 0], distance[:, 0], nearest[:, 0])

    assert score.item() == pytest.approx((1 - 1 / 9) * 32, rel=1e-5)


def test_a_saved_bank_gives_identical_scores() -> None:
    detector = fitted(noise(4, 3, SIZE, SIZE))
    images = noise(3, 3, SIZE, SIZE, seed=1)
    state = copy.deepcopy(detector.state_dict())
    other = trainer().detector
    other.memory.bank = torch.empty_like(state["memory.bank"])

    other.load_state_dict(state)

    expected, found = detector(images), other(images)
    assert torch.equal(found.score, expected.score)
    assert found.map is not None
    assert expected.map is not None
    assert torch.equal(found.map, expected.map)
    assert state["memory.bank"].dtype == torch.float16


def test_only_the_backbone_and_the_bank_are_saved() -> None:
    state = fitted(noise(2, 3, SIZE, SIZE)).state_dict()

    assert [name for name in state if not name.startswith("extractor.")] == ["memory.bank"]


def test_learning_again_forgets() -> None:
    one_pass = trainer()
    banks = []
    for seed in (1, 2, 1):
        one_pass.begin(4)
        one_pass.observe(one_pass.extract(noise(4, 3, SIZE, SIZE, seed=seed)))
        one_pass.conclude()
        banks.append(one_pass.detector.memory.bank)

    assert torch.equal(banks[0], banks[2])
    assert not torch.equal(banks[0], banks[1])


def test_more_patches_than_can_be_kept_are_thinned_from_the_seed_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patchcore, "MAX_PATCHES", 50)
    images = noise(6, 3, SIZE, SIZE)

    with pytest.warns(UserWarning, match="96 patches are more than the 50"):
        first = fitted(images, coreset_ratio=1.0)
    with pytest.warns(UserWarning, match="a random part"):
        second = fitted(images, coreset_ratio=1.0)

    patches = first.embed(images).flatten(0, 2)
    nearest = torch.cdist(first.memory.bank.double(), patches.double()).min(1)
    assert torch.equal(first.memory.bank, second.memory.bank)
    assert len(set(nearest.indices.tolist())) == 50
    assert nearest.values.max() < 1e-3 * patches.norm(dim=1).mean()
    assert nearest.indices.max() >= 80  # drawn from all pictures, the last one too


@pytest.mark.parametrize("score", ["max", "reweight"])
def test_detector_can_be_exported(score: str) -> None:
    detector = fitted(noise(4, 3, SIZE, SIZE), score=score)
    images = noise(2, 3, SIZE, SIZE, seed=1)

    exported = torch.export.export(detector, (images,)).module()

    torch.testing.assert_close(exported(images).score, detector(images).score)
    torch.testing.assert_close(exported(images).map, detector(images).map)


def test_scores_of_faiss_are_those_of_torch() -> None:
    pytest.importorskip("faiss")
    images = noise(4, 3, SIZE, SIZE)

    with_torch, with_faiss = fitted(images), fitted(images, knn="faiss")

    probe = noise(2, 3, SIZE, SIZE, seed=1)
    torch.testing.assert_close(with_faiss(probe).score, with_torch(probe).score)


def test_a_search_that_is_not_exact_is_told_shown_saved_and_exported_as_an_exact_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    root, run = write_mvtec_tree(tmp_path / "data", size=SIZE), tmp_path / "run"
    options = {"backbone": "filter_bank", "layers": ("fine",), "knn": "faiss", "index": "ivf",
               "nlist": 40, "nprobe": 1, "coreset_ratio": 1.0}  # fmt: skip
    result = train(
        "mvtec", "toy", "patchcore", output_dir=run, data_root=root, img_size=SIZE, model=options
    )

    (note,) = [note for note in result.notes if "faiss" in note]
    assert "(index=ivf, nlist=40, nprobe=1) finds" in note
    assert "--set nprobe=N" in note
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setattr(sys, "argv", ["ad", "show", str(run)])
    with contextlib.suppress(SystemExit):
        main()
    assert note in capsys.readouterr().out

    saved, images = load(run).detector, noise(8, 3, SIZE, SIZE, seed=5)
    assert isinstance(saved, PatchcoreDetector)
    missed = saved(images)
    (told,) = saved.prepare_export()
    assert "it is exact, which faiss (index=ivf, nlist=40, nprobe=1) is not" in told
    whole = saved(images)
    assert missed.map is not None
    assert whole.map is not None
    assert (missed.map - whole.map).max() > 1e-3
    graph = torch.export.export(saved, (images,)).module()
    torch.testing.assert_close(graph(images).score, whole.score)


def test_an_exact_search_exports_without_a_word() -> None:
    assert fitted(noise(2, 3, SIZE, SIZE)).prepare_export() == ()


def test_an_index_without_faiss_is_refused() -> None:
    with pytest.raises(SettingError, match="`index=hnsw` is an index of faiss, and `knn` is `torc"):
        trainer(index="hnsw")


def test_the_fast_search_of_before_is_exact_now_and_that_is_told() -> None:
    with pytest.warns(UserWarning, match="`knn_precision=fast` had become slower .* Leave it out"):
        now = trainer(knn_precision="fast")
    assert now.detector.memory.faiss is None


def test_scoring_before_learning_is_refused() -> None:
    with pytest.raises(NotFittedError, match=r"`memory\.bank` is empty"):
        trainer().detector(noise(1, 3, SIZE, SIZE))


def test_learning_from_nothing_is_refused() -> None:
    one_pass = trainer()
    one_pass.begin(0)

    with pytest.raises(SettingError, match="cannot learn from 0 pictures"):
        one_pass.conclude()


@pytest.mark.parametrize("coreset", ["greedy", "random", "kmeans"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            65_520.0,
            r"as large as 65,520 cannot be remembered: .* float16, which ends at 65,504",
        ),
        (-1e6, r"as large as 1,000,000 cannot be remembered: .*such as `padim`"),
        (float("inf"), "Features of a patch are no finite numbers: the backbone's weights are not"),
        (float("nan"), "Features of a patch are no finite numbers"),
    ],
)
def test_features_that_float16_cannot_hold_are_refused(
    coreset: str, value: float, words: str
) -> None:
    one_pass = trainer(coreset=coreset)
    one_pass.begin(2)
    patches = noise(2, 4, 4, 8)
    patches[1, 2, 3, 4] = value
    with pytest.raises(DataError, match=words):
        one_pass.observe(patches)


@pytest.mark.parametrize("value", [65_504.0, 65_519.0, -65_504.0])  # the last digits are rounded
def test_features_up_to_the_end_of_float16_are_remembered(value: float) -> None:
    one_pass = trainer(coreset="random", coreset_ratio=1.0)
    one_pass.begin(1)
    patches = noise(1, 4, 4, 8)
    patches[0, 0, 0, 0] = value
    one_pass.observe(patches)
    one_pass.conclude()
    assert one_pass.detector.memory.bank.float().abs().max() == 65_504


def test_features_that_float16_has_no_digits_for_are_refused() -> None:
    one_pass = trainer()
    one_pass.begin(2)
    for patches in (1e-7 * noise(1, 4, 4, 8), torch.zeros(1, 4, 4, 8)):
        one_pass.observe(patches)
    with pytest.raises(DataError, match=r"No feature is larger than 1e-07: patches are stored in"):
        one_pass.conclude()
    for patches in (1e-7 * noise(1, 4, 4, 8), noise(1, 4, 4, 8)):
        one_pass.begin(1)  # a flat picture is no harm
        one_pass.observe(noise(1, 4, 4, 8) + patches)
        one_pass.conclude()


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5, float("nan")])
def test_a_ratio_that_is_no_part_is_refused(ratio: float) -> None:
    with pytest.raises(SettingError, match=r"`coreset_ratio` of `PatchcoreTrainer`: .*; got"):
        trainer(coreset_ratio=ratio)


def test_no_neighbours_are_refused() -> None:
    with pytest.raises(SettingError, match=r"`n_neighbors` of .* than or equal to 1; got 0"):
        trainer(n_neighbors=0)


def test_a_negative_number_of_dimensions_is_refused() -> None:
    with pytest.raises(SettingError, match=r"`proj_dim` of .* than or equal to 0; got -1"):
        trainer(proj_dim=-1)


@pytest.mark.parametrize(
    ("option", "allowed"),
    [
        ("embedding", "'pooled' or 'concatenated'"),
        ("coreset", "'greedy', 'random' or 'kmeans'"),
        ("score", "'max' or 'reweight'"),
        ("knn_precision", "'exact'"),
        ("index", "'flat', 'ivf' or 'hnsw'"),
        ("knn", "'torch' or 'faiss'"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(option: str, allowed: str) -> None:
    with pytest.raises(SettingError, match=f"`{option}` of .* should be {allowed}; got 'other'"):
        trainer(**{option: "other"})


@pytest.mark.parametrize(
    ("old", "new"), [("official1024", "pooled"), ("concat1536", "concatenated")]
)
def test_models_and_runs_of_before_have_an_embedding_by_its_old_name(
    old: str, new: str, tmp_path: Path
) -> None:
    root, run = write_mvtec_tree(tmp_path / "data", size=SIZE), tmp_path / "run"
    options = {"backbone": "filter_bank", "layers": ("fine",), "embedding": old}
    given: dict[str, Any] = {"data_root": root, "img_size": SIZE, "model": options}
    first = train("mvtec", "toy", "patchcore", output_dir=run, **given)
    record = json.loads((run / "run.json").read_text())
    assert record["settings"]["options"]["embedding"] == new
    assert f"--set embedding={new}" in record["command"]
    model = run / "model"
    config = read_config(model)
    assert config["options"]["embedding"] == new

    rewrite_config(model, {**config, "options": {**config["options"], "embedding": old}})
    record["settings"]["options"]["embedding"] = old
    (run / "run.json").write_text(json.dumps(record))

    picture = root / "toy/test/square/000.png"
    assert load(run).predict(picture)[0].score == first.detector.predict(picture)[0].score
    (run / "metrics.json").unlink()  # as a run that was killed at its very end
    assert train("mvtec", "toy", "patchcore", resume=run, **given).metrics == first.metrics


def test_a_loaded_bank_that_is_no_matrix_is_refused() -> None:
    state = {**fitted(noise(4, 3, SIZE, SIZE)).state_dict(), "memory.bank": torch.ones(5).half()}
    with pytest.raises(ModelFileError, match=r"`memory.bank` of .* is \(5,\); \(M, D\) is needed"):
        load_tensors(trainer().detector, state, "elsewhere")
