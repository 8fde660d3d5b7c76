"""A flat index is exact; what others find is measured, and made anew the same from a bank."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from ad.core.errors import MissingExtraError, SettingError
from ad.memory.faiss_index import FaissIndex, FaissSettings
from ad.memory.neighbors import NearestNeighbors
from ad.memory.recall import Recall, measured


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def like_features(num_rows: int, num_features: int, *, seed: int = 0) -> Tensor:
    deviation = 0.85 ** torch.arange(num_features)
    return 5 + noise(num_rows, num_features, seed=seed) * deviation


@pytest.mark.parametrize("k", [1, 4])
def test_faiss_finds_what_torch_finds(k: int) -> None:
    pytest.importorskip("faiss")
    with_torch, with_faiss = NearestNeighbors(), NearestNeighbors(faiss=FaissSettings())
    for memory in (with_torch, with_faiss):
        memory.remember(like_features(600, 32))
    queries = torch.cat([like_features(80, 32, seed=1), with_torch.bank[:20].float()])

    distances, indices = with_faiss(queries, k)

    torch.testing.assert_close(distances, with_torch(queries, k)[0], rtol=1e-6, atol=0)
    assert torch.equal(indices, with_torch(queries, k)[1])


def test_faiss_refuses_what_torch_refuses() -> None:
    pytest.importorskip("faiss")
    memory = NearestNeighbors(faiss=FaissSettings())
    memory.remember(noise(5, 3))

    with pytest.raises(SettingError, match=r"`k` must be between 1 and"):
        memory(noise(2, 3), 6)


def test_faiss_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)

    with pytest.raises(
        MissingExtraError, match=r"in a clone .*: pip install './packages/ad-memory\[faiss\]'"
    ):
        NearestNeighbors(faiss=FaissSettings())


@pytest.mark.parametrize(
    "settings",
    [FaissSettings("ivf", nlist=30, nprobe=3), FaissSettings("hnsw", hnsw_m=4, ef_search=4)],
)
def test_recall_is_the_share_of_nearest_that_brute_force_finds(settings: FaissSettings) -> None:
    pytest.importorskip("faiss")
    patches, chosen = like_features(1500, 16).half(), torch.arange(0, 1500, 2)
    memory = NearestNeighbors(faiss=settings)
    memory.remember(patches[chosen])

    found = measured(memory, patches, chosen, 5, seed=0)

    queries, bank = patches[1::2], patches[chosen]  # all that are not in the bank
    distance = torch.cdist(queries.double(), bank.double())
    nearest = distance.topk(5, largest=False).indices
    distances, rows = FaissIndex(bank, settings).search(queries.float(), 5)
    first = (rows[:, 0] == nearest[:, 0]).double().mean()
    every = torch.stack(
        [torch.isin(own, true).double().mean() for own, true in zip(rows, nearest, strict=True)]
    )
    excess = distances.double().sum() / distance.gather(1, nearest).sum() - 1
    assert found == Recall(
        settings, 750, 750, 5, pytest.approx(float(first)), pytest.approx(float(every.mean())),
        pytest.approx(float(excess), rel=1e-3),
    )  # fmt: skip
    assert found.all < 1  # or nothing was measured
    torch.testing.assert_close(distances.double(), distance.gather(1, rows), rtol=1e-5, atol=0)


def test_rows_of_a_bank_of_all_patches_are_not_asked_for_themselves() -> None:
    pytest.importorskip("faiss")
    patches = like_features(300, 16)
    memory = NearestNeighbors(faiss=FaissSettings("ivf", nlist=60, nprobe=1))
    memory.remember(patches)

    found = measured(memory, patches, torch.arange(300), 1, seed=0)

    assert found.queries == 300
    assert 0.05 < found.first < 0.9  # each would find itself


def test_a_recall_that_is_little_is_told_with_what_to_type() -> None:
    how = FaissSettings("ivf", nprobe=2)
    good = Recall(how, 900, 2048, 1, 0.97, 0.97, 0.001)
    little = Recall(how, 900, 2048, 3, 0.96, 0.9, 0.02)

    assert good.told() == (
        "faiss (index=ivf, nlist=120, nprobe=2) finds 97.0% of the nearest patches that the exact "
        "search finds, asked for 2,048 patches of good pictures; distances are 0.10% too large on "
        "average."
    )
    assert Recall(FaissSettings("hnsw"), 9, 9, 1, 0.9, 0.9, 0).told().endswith("ef_search=N")
    assert "96.0% of the nearest patches and 90.0% of the 3 nearest that the" in little.told()
    assert little.told().endswith(
        "That is little: choose a larger `nprobe`, or `knn=torch`, which is exact: "
        "ad train ... --set nprobe=N"
    )


@pytest.mark.parametrize(
    "settings",
    [FaissSettings("ivf", nlist=40, nprobe=1), FaissSettings("hnsw", hnsw_m=2, ef_search=1)],
)
def test_as_many_neighbours_are_found_as_are_asked_for(settings: FaissSettings) -> None:
    pytest.importorskip("faiss")
    bank, queries = like_features(80, 12).half(), like_features(20, 12, seed=1)

    distances, rows = FaissIndex(bank, settings).search(queries, 60)

    assert all(len(set(row)) == 60 for row in rows.tolist())
    true = torch.cdist(queries.double(), bank.double()).gather(1, rows)
    torch.testing.assert_close(distances.double(), true, rtol=1e-5, atol=0)


@pytest.mark.parametrize("settings", [FaissSettings("ivf", nprobe=2), FaissSettings("hnsw")])
def test_an_index_is_made_anew_the_same(settings: FaissSettings) -> None:
    pytest.importorskip("faiss")
    bank, queries = like_features(900, 12).half(), like_features(200, 12, seed=1)

    one, other = (FaissIndex(bank, settings).search(queries, 3) for _ in range(2))

    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_cells_are_four_times_the_root_of_the_rows_and_no_more_than_rows() -> None:
    assert FaissSettings("ivf").cells(77_926) == 1117
    assert FaissSettings("ivf").cells(5) == 5
    assert FaissSettings("ivf", nlist=100).cells(1000) == 100
    assert FaissSettings("ivf", nlist=100).cells(7) == 7


@pytest.mark.parametrize(("index", "given", "words"), [
    ("flat", {"nprobe": 4}, "`nprobe` is for `index=ivf`; the index is `flat`. Leave `nprobe` out"),
    ("hnsw", {"nlist": 4}, "`nlist` is for `index=ivf`; the index is `hnsw`"),
    ("ivf", {"ef_search": 4}, "`ef_search` is for `index=hnsw`; .* or choose `index=hnsw`"),
    ("ivf", {"hnsw_m": 4}, "`hnsw_m` is for `index=hnsw`"),
])  # fmt: skip
def test_a_setting_of_another_index_is_refused(
    index: str, given: dict[str, int], words: str
) -> None:
    with pytest.raises(SettingError, match=words):
        FaissSettings(index, **given)  # type: ignore[arg-type]
