"""What reads golden numbers: the formula of filled parameters, and the rule of comparison."""

import pytest
import torch
from golden import check_close, filled


def test_filled_numbers_are_those_of_the_readme():
    found = filled([4], 1, -1, 1)
    expected = torch.tensor([-0.0820828, -0.7043077, 0.1602404, -0.8587955])
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
    assert torch.equal(filled([2, 2], 1, -1, 1).flatten(), found)  # rows first
    assert filled([], 1, -1, 1).shape == ()


def test_a_gap_counts_against_the_largest_number():
    theirs = torch.tensor([0.0, 100.0])
    check_close(theirs + torch.tensor([0.1, -0.1]), theirs, 1.001e-3, "it")
    for ours in (theirs + 0.2, theirs * torch.nan, theirs[:1], theirs[None]):
        with pytest.raises(AssertionError, match="it"):
            check_close(ours, theirs, 1e-3, "it")
