"""U-Flow's test of significance, against golden numbers and regions found one by one."""

import math

import numpy as np
import pytest
import torch
from golden import Golden, check_close, needs_golden
from scipy import ndimage, stats
from torch.nn import functional as F

from ad.flow.a_contrario import (
    block_log_probability,
    half_window,
    log10_number_of_regions,
    minus_log10_nfa,
    tree_log_probability,
)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- regions, one by one -----------------------------------------------------------------------


def regions_of(energy):
    """Every component of every level set, as a set of pixels, and the region right around each."""
    found = {}
    for level in np.unique(energy):
        labels, count = ndimage.label(energy >= level)
        for number in range(1, count + 1):
            found[frozenset(np.flatnonzero(labels == number).tolist())] = level
    around = {
        region: min((other for other in found if region < other), key=len, default=None)
        for region in found
    }
    return found, around


def rarest_by_rewriting(energy, channels):
    """The tree as it is told: prune paths, merge leaves into their fork, until nothing changes."""
    level, around = regions_of(energy)

    def rarity(region):
        t = level[region]
        if t <= 1:
            return 0.0
        return -len(region) * channels / 2 * (t - 1 - math.log(t)) / math.log(10)

    def inside(region):
        return [one for one, outer in around.items() if outer == region]

    def drop(region):
        for one in inside(region):
            around[one] = around[region]
        del around[region]

    changed = True
    while changed:
        changed = False
        for region in sorted(around, key=len):
            if region not in around:
                continue
            outer = around[region]
            path = outer is not None and len(inside(outer)) == 1 and len(inside(region)) < 2
            if path:  # neither is a fork
                drop(region if rarity(outer) <= rarity(region) else outer)
                changed = True
        for region in list(around):
            tips = inside(region)
            if (
                len(tips) > 1
                and not any(inside(tip) for tip in tips)
                and rarity(region) <= min(rarity(tip) for tip in tips)
            ):
                for tip in tips:
                    del around[tip]
                changed = True
    values = np.full(energy.size, np.nan)
    for region in around:
        if not inside(region):
            values[list(region)] = rarity(region)
    return values.reshape(energy.shape)


@pytest.mark.parametrize("seed", range(30))
def test_the_tree_is_that_of_regions_found_one_by_one(seed):
    rng = np.random.default_rng(seed)
    shape = [(5, 6), (1, 9), (7, 1), (4, 4)][seed % 4]
    energy = rng.gamma(3, 0.5, shape)
    if seed % 3 == 0:  # plateaus
        energy = np.round(energy * 4) / 4
    channels = int(rng.integers(1, 5))
    ours = tree_log_probability(energy, channels)
    theirs = rarest_by_rewriting(energy, channels)
    # Of regions that are equally rare, at 0, either may stay.
    np.testing.assert_allclose(np.nan_to_num(ours), np.nan_to_num(theirs), rtol=1e-12)
    assert (np.isfinite(theirs[theirs < 0])).all()


def test_regions_touch_at_sides_and_not_at_corners():
    energy = np.full((4, 4), 0.5)
    energy[0, 0], energy[1, 1] = 3.0, 4.0
    found = tree_log_probability(energy, 2)
    assert found[0, 0] == pytest.approx(-(2 - math.log(3)) / math.log(10))
    assert found[1, 1] == pytest.approx(-(3 - math.log(4)) / math.log(10))


def test_chernoffs_bound_is_above_the_probability_and_not_far():
    """Of one pixel: the chance that the mean of so many squared normal numbers is so high."""
    for channels, level in ((4, 3.0), (64, 1.5), (256, 2.0)):
        (((bound,)),) = tree_log_probability(np.array([[level]]), channels)
        exact = stats.chi2.logsf(channels * level, channels) / math.log(10)
        assert exact <= bound <= exact + 2


def test_quiet_latents_make_nothing_anomalous():
    """Without the guard the bound on how quiet they are would call every pixel so."""
    quiet = [0.5 * drawn(2, 12, 16, 16), 0.5 * drawn(2, 8, 8, 8, seed=1)]
    for variant in ("tree", "block"):
        assert (minus_log10_nfa(quiet, (32, 32), variant) < 0).all()
    assert tree_log_probability(np.full((3, 3), 0.1), 50).tolist() == [[0] * 3] * 3
    assert tree_log_probability(np.full((3, 3), 1.0), 50).tolist() == [[0] * 3] * 3


@pytest.mark.parametrize("variant", ["tree", "block"])
def test_noise_raises_less_than_one_alarm_a_picture_and_a_defect_is_found(variant):
    latents = [drawn(20, 16, 16, 24), drawn(20, 8, 8, 12, seed=1)]
    quiet = minus_log10_nfa(latents, (32, 48), variant) > 0
    alarms = [ndimage.label(picture)[1] for picture in quiet.numpy()]
    assert np.mean(alarms) < 1
    for z, (row, column) in zip(latents, ((4, 10), (2, 5)), strict=True):
        z[:, :, row : row + 3, column : column + 3] = 6.0
    found = minus_log10_nfa(latents, (32, 48), variant) > 0
    assert found[:, 10, 22].all()
    assert not found[:, 26:, :10].any()


@pytest.mark.parametrize("variant", ["tree", "block"])
def test_a_picture_does_not_depend_on_its_batch_and_none_gives_none(variant):
    latents = [drawn(3, 8, 8, 12), drawn(3, 8, 4, 6, seed=1)]
    whole = minus_log10_nfa(latents, (16, 24), variant)
    alone = [minus_log10_nfa([z[n : n + 1] for z in latents], (16, 24), variant) for n in range(3)]
    torch.testing.assert_close(torch.cat(alone), whole)
    none = minus_log10_nfa([z[:0] for z in latents], (16, 24), variant)
    assert none.shape == (0, 16, 24)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("variant", ["tree", "block"])
def test_what_is_not_finite_is_not_called_good(variant, value):
    latents = [drawn(2, 8, 8, 8), drawn(2, 8, 4, 4, seed=1)]
    expected = minus_log10_nfa([z[1:] for z in latents], (16, 16), variant)
    latents[1][0, 3, 2, 2] = value
    found = minus_log10_nfa(latents, (16, 16), variant)
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1:], expected)


def test_the_number_of_regions_is_the_sum_of_polyominoes():
    """In plain numbers, which only few cells allow."""
    shapes = [(3, 4), (2, 2)]
    total = sum(
        h * w * sum(0.316915 * 4.06257**r / r for r in range(1, h * w + 1)) for h, w in shapes
    )
    assert log10_number_of_regions(shapes) == pytest.approx(math.log10(total))
    assert math.isfinite(log10_number_of_regions([(256, 256)]))


# --- squares -----------------------------------------------------------------------------------


def test_squares_count_what_is_high_beyond_mirrored_borders_too():
    latents = drawn(1, 3, 5, 6, seed=4)
    found = block_log_probability(latents, 0)[0]
    high = (latents[0].numpy() ** 2 >= stats.chi2.ppf(0.9, 1)).astype(int)
    mirrored = np.pad(high, ((0, 0), (2, 2), (2, 2)), mode="reflect")
    for row in range(5):
        for column in range(6):
            k = mirrored[:, row : row + 5, column : column + 5].sum() // 3
            expected = stats.binom.logsf(k, 25, 0.1) / math.log(10)
            assert found[row, column].item() == pytest.approx(expected)


def test_a_square_of_nothing_but_high_latents_has_a_finite_probability():
    found = block_log_probability(torch.full((1, 4, 8, 8), 9.0), 1)
    torch.testing.assert_close(found, torch.full((1, 8, 8), -9.0, dtype=torch.float64))


def test_squares_shrink_with_the_scale_and_keep_a_border():
    assert [half_window(scale) for scale in range(4)] == [2, 1, 1, 1]
    assert [half_window(scale, 13) for scale in range(4)] == [6, 3, 1, 1]


# --- golden numbers ----------------------------------------------------------------------------


class TestGolden:
    pytestmark = needs_golden

    @pytest.mark.parametrize(
        ("latents", "guard"),
        [
            ("latents_all_above_one", ""),
            ("latents_natural", ".with_guard"),
            ("latents_low_energy", ".with_guard"),
        ],
    )
    def test_connected_regions(self, latents, guard):
        """What the authors' code says without the guard is left out: it is what we do not do.

        Which pixels are in a region is compared where it is rarer than 1 in a million less: among
        latents all of the same energy, or below the guard, rounding decides.
        """
        own = f"tree/{latents}{guard}/"
        with Golden("flow_uflow_nfa", only=own) as golden:
            zs = golden.layers(f"{latents}/z.")
            for number, z in enumerate(zs):
                theirs = golden[f"{own}log_prob.scale{number}"]
                energy = z.double().square().mean(dim=1).numpy()
                ours = np.stack([tree_log_probability(one, z.shape[1]) for one in energy])
                ours = torch.from_numpy(ours)
                check_close(ours.nan_to_num(0), theirs.nan_to_num(0), 1e-4, own)
                assert torch.equal(ours < -1e-6, theirs < -1e-6)
            found = minus_log10_nfa(zs, (32, 32))
            golden.check(found[:, None], f"{own}minus_log10_nfa", 1e-4)

    def test_the_authors_code_without_the_guard_calls_all_of_quiet_pictures_anomalous(self):
        own = "tree/latents_low_energy.official_no_guard/"
        only = (own, "tree/latents_natural.official_no_guard/")
        beyond = [f"{name}log_prob.scale{scale}" for name in only for scale in (0, 1)]
        beyond += [f"{only[1]}minus_log10_nfa"]
        with Golden("flow_uflow_nfa", only=only, beyond=beyond) as golden:
            assert (golden[f"{own}minus_log10_nfa"] > 0).all()
            assert (minus_log10_nfa(golden.layers("latents_low_energy/z."), (32, 32)) < 0).all()

    def test_numbers_of_regions(self):
        with Golden("flow_uflow_nfa", only="tree/log10_number_of_tests.") as golden:
            for sides in ((16, 8), (28, 14), (4,)):
                ours = log10_number_of_regions([(side, side) for side in sides])
                key = "_".join(f"{side}x{side}" for side in sides)
                golden.check(ours, f"tree/log10_number_of_tests.{key}", 1e-4)

    @pytest.mark.parametrize("latents", ["latents_all_above_one", "latents_natural"])
    @pytest.mark.parametrize(
        ("name", "window", "covered"),
        [("official_win5_p0.9", 5, 0.9), ("anomalib_win7_p0.5", 7, 0.5)],
    )
    def test_squares(self, latents, name, window, covered):
        """The same with `high_precision`, a continuous binomial density, is another number."""
        own = f"block/{latents}.{name}/"
        with Golden("flow_uflow_nfa", only=own) as golden:
            zs = golden.layers(f"{latents}/z.")
            total = math.log10(16 * 16 + 8 * 8)
            for number, z in enumerate(zs):
                found = block_log_probability(z, number, window=window, covered=covered)[:, None]
                golden.check(found, f"{own}log_prob.scale{number}", 1e-4)
                total = total + F.interpolate(found, (32, 32), mode="bicubic", align_corners=True)
            golden.check(-total, f"{own}minus_log10_nfa", 1e-4)
            if window == 5:
                ours = minus_log10_nfa(zs, (32, 32), "block")
                golden.check(ours[:, None], f"{own}minus_log10_nfa", 1e-4)
