from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from ad.memory.exported_search import search
from ad.memory.neighbors import NearestNeighbors

FEATURES = 8


def rows(count: int, *, seed: int = 0) -> Tensor:
    """With a far common centre, as features of networks have."""
    return 5 + torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed))


def brute_force(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    difference = queries.double()[:, None] - bank.double()
    distances, indices = difference.square().sum(2).sqrt().topk(k, largest=False)
    return distances.float(), indices


@pytest.mark.parametrize("k", [1, 3, 1100])
def test_search_equals_brute_force_over_several_tiles(k: int) -> None:
    bank = rows(2500).half()  # two tiles and a part of one
    queries = torch.cat([rows(4, seed=1), bank[[0, 1023, 1024, -1]].float()])

    distances, indices = search(queries, bank, k)

    expected = brute_force(queries, bank, k)
    torch.testing.assert_close(distances, expected[0])
    assert torch.equal(indices, expected[1])


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_bank_of_few_rows_may_give_them_all(k: int) -> None:
    queries, bank = rows(3, seed=1), rows(5).half()

    distances, indices = search(queries, bank, k)

    expected = brute_force(queries, bank, k)
    torch.testing.assert_close(distances, expected[0])
    assert torch.equal(indices, expected[1])


@pytest.mark.parametrize("k", [1, 2])
def test_an_exported_memory_holds_no_more_than_a_tile_at_a_time_in_float32(k: int) -> None:
    memory = NearestNeighbors()
    memory.remember(rows(2500))
    queries = rows(5, seed=1)

    program = torch.export.export(memory, (queries, k))

    distances, indices = program.module()(queries, k)
    expected = brute_force(queries, memory.bank, k)
    torch.testing.assert_close(distances, expected[0])
    assert torch.equal(indices, expected[1])
    graphs = [one.graph for one in program.graph_module.modules() if isinstance(one, GraphModule)]
    values = [node.meta.get("val") for graph in graphs for node in graph.nodes]
    sizes = [v.numel() for v in values if isinstance(v, Tensor) and v.dtype == torch.float32]
    assert max(sizes) == 1024 * FEATURES  # not 2500, nor 5 x 2500
