import math

import pytest
import torch
import torch.nn.functional as F

from ad.recon.focal import focal_loss


def case():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 2, 4, 5, generator=generator)
    masks = (torch.rand(2, 1, 4, 5, generator=generator) > 0.7).float()
    return logits.softmax(1), masks


@pytest.mark.parametrize("gamma", [2.0, 4.0])
def test_it_is_the_formula_pixel_by_pixel(gamma):
    probabilities, masks = case()
    terms = []
    for row, pair in enumerate(probabilities.double()):
        for (y, x), bad in zip(torch.cartesian_prod(torch.arange(4), torch.arange(5)).tolist(),
                               masks[row].flatten().tolist(), strict=True):  # fmt: skip
            right, wrong = pair[int(bad), y, x].item(), pair[1 - int(bad), y, x].item()
            p = (1 - 1e-5) * right + 1e-5 * wrong + 1e-5
            terms.append(-((1 - p) ** gamma) * math.log(p))
    found = focal_loss(probabilities, masks, gamma)
    assert found.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_gamma_0_is_cross_entropy():
    probabilities, masks = case()
    expected = F.nll_loss(probabilities.log(), masks[:, 0].long())
    torch.testing.assert_close(focal_loss(probabilities, masks, 0.0), expected, rtol=1e-3, atol=0)


def test_certainty_costs_nothing_if_right_and_stays_finite_if_wrong():
    masks = torch.tensor([0.0, 1.0])[None, None, None]
    right = torch.cat([1 - masks, masks], dim=1).requires_grad_()
    wrong = torch.cat([masks, 1 - masks], dim=1).requires_grad_()
    assert focal_loss(right, masks).item() == pytest.approx(0, abs=1e-6)
    loss = focal_loss(wrong, masks)
    assert loss.item() == pytest.approx(-math.log(2e-5), rel=1e-3)
    loss.backward()
    assert wrong.grad.isfinite().all()


def test_autocast_changes_nothing():
    probabilities, masks = case()
    with torch.autocast("cpu", torch.bfloat16):
        found = focal_loss(probabilities.bfloat16(), masks)
    assert found.dtype == torch.float32
    assert torch.equal(found, focal_loss(probabilities.bfloat16().float(), masks))
