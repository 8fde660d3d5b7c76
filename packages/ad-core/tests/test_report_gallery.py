"""Which pictures a report shows, and how."""

import numpy as np
import pytest
import torch
from PIL import Image
from report_pages import pixels, samples_of

from ad.core.data.batches import Batch
from ad.core.data.samples import Sample
from ad.core.report import gallery as gallery_module
from ad.core.report.gallery import EASIEST, HARDEST, OF_EACH_KIND, Gallery
from ad.core.report.page import data_uri
from ad.core.report.webp import map_webps
from ad.runtime.calibration.by_rate import calibrate
from ad.runtime.heatmaps import colour_table
from ad.runtime.pictures.reading import read_picture, upright_size


def show(gallery, scores, *, order=None, size=8, maps=None, batch_size=5):
    """Let a gallery see plain pictures, each as bright as its index."""
    order = range(len(scores)) if order is None else order
    for at in range(0, len(order), batch_size):
        rows = list(order[at : at + batch_size])
        pictures = torch.stack([torch.full((size, size, 3), row % 256).byte() for row in rows])
        own = None if maps is None else maps[rows]
        gallery.see(Batch(rows, pictures), np.asarray(scores, np.float32)[rows], own)


def test_the_gallery_keeps_the_hardest_and_the_clearest_of_many():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 700).tolist(), rng.normal(size=700).round(2)
    samples = samples_of(labels)
    gallery = Gallery(samples, None)
    show(gallery, scores)
    wanted = set()
    for label in (0, 1):
        own = [n for n in range(700) if labels[n] == label]
        wrong = {n: -scores[n] if label else scores[n] for n in own}
        hardest = sorted(own, key=lambda n: (-wrong[n], n))
        wanted |= {*hardest[:HARDEST], *sorted(own, key=lambda n: (wrong[n], n))[:EASIEST]}
        for group in {samples[n].group for n in own}:
            wanted |= {*[n for n in hardest if samples[n].group == group][:OF_EACH_KIND]}
    assert {shown.index for shown in gallery.shown} == wanted


def test_the_gallery_shows_all_of_few_pictures():
    gallery = Gallery(samples_of([0, 1] * 60), None)
    show(gallery, np.arange(120))
    assert [shown.index for shown in gallery.shown] == [*range(120)]


def test_what_is_kept_does_not_grow_with_the_number_of_kinds_or_pictures():
    samples = [Sample(f"{n}", 1, "test", "toy", f"kind{n}") for n in range(1500)]
    gallery = Gallery(samples, None)
    show(gallery, np.random.default_rng(0).normal(size=1500), batch_size=100)
    limit = HARDEST + EASIEST + gallery_module.KINDS * OF_EACH_KIND
    assert len(gallery.shown) <= limit


def test_galleries_of_several_processes_make_one():
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, 500).tolist(), rng.normal(size=500).astype(np.float32)
    samples = samples_of(labels)
    whole, *shares = (Gallery(samples, None) for _ in range(4))
    show(whole, scores)
    for rank, share in enumerate(shares):
        show(share, scores, order=range(rank, 500, 3))
    shares[0].merge([share.shown for share in shares])
    assert shares[0].shown == whole.shown


def test_equal_scores_keep_the_first_pictures():
    gallery = Gallery(samples_of([0] * 300), None)
    show(gallery, np.zeros(300))
    assert [shown.index for shown in gallery.shown] == [*range(HARDEST)]


def test_a_map_is_shown_around_the_pixel_threshold():
    calibration = calibrate([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])
    ramp = np.linspace(-6, 10, 64, dtype=np.float32)
    maps = np.broadcast_to(ramp, (1, 64, 64))
    gallery = Gallery(samples_of([1]), calibration)
    show(gallery, [3.0], size=64, maps=maps)
    heat = pixels(gallery.shown[0].heat)[..., 0] / 255
    wanted = np.broadcast_to(calibration.normalize_map(ramp), (64, 64))
    assert heat == pytest.approx(wanted, abs=0.03)


def test_a_map_below_the_threshold_is_resolved_in_its_own_range():
    """The logistic curve leaves it three levels; what a missed defect looks like is in these."""
    calibration = calibrate([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])
    ramp = np.linspace(-9, -3, 64, dtype=np.float32)
    maps = np.broadcast_to(ramp, (1, 64, 64))
    gallery = Gallery(samples_of([1]), calibration)
    show(gallery, [3.0], size=64, maps=maps)
    (shown,) = gallery.shown
    assert pixels(shown.heat).max() < 10
    wanted = np.broadcast_to(np.linspace(0, 1, 64), (64, 64))
    assert pixels(shown.own)[..., 0] / 255 == pytest.approx(wanted, abs=0.03)


def test_a_gallery_that_is_calibrated_later_is_the_same():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(200, 16, 16)).astype(np.float32)
    maps[:, :2] = np.nan  # not looked at
    scores = np.nanmax(maps, axis=(1, 2))
    calibration = calibrate(scores[:20], scores[:20])
    at_once, later = (
        Gallery(samples_of([0] * 200), calibration if known else None, later=not known)
        for known in (True, False)
    )
    for gallery in (at_once, later):
        show(gallery, scores, maps=maps)
    assert at_once.shown != later.shown
    later.calibrate(calibration)
    assert at_once.shown == later.shown


def test_a_map_without_threshold_has_its_own_range():
    maps = np.stack([np.full((8, 8), 7.0), np.arange(64.0).reshape(8, 8)]).astype(np.float32)
    gallery = Gallery(samples_of([1, 0]), None)
    show(gallery, [1.0, 2.0], maps=maps)
    flat, ramp = (pixels(shown.heat)[..., 0] for shown in gallery.shown)
    assert flat.max() <= 3
    assert ramp.min() <= 5
    assert ramp.max() >= 250


def test_large_pictures_are_reduced_and_small_ones_kept():
    gallery = Gallery(samples_of([0, 0]), None)
    show(gallery, [0.0], size=320, maps=np.zeros((2, 320, 320), np.float32), order=[0])
    show(gallery, [0.0, 1.0], size=48, order=[1])
    large, small = gallery.shown
    assert pixels(large.picture).shape == (256, 256, 3)
    assert pixels(large.heat).shape[:2] == (128, 128)
    assert pixels(small.picture).shape == (48, 48, 3)
    assert small.heat is None


def test_a_full_gallery_makes_a_file_that_can_be_sent():
    """Noise is the worst that a picture can do to a compressed file."""
    rng = np.random.default_rng(0)
    gallery = Gallery(samples_of([0, 1]), None)
    noise = torch.from_numpy(rng.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8))
    maps = rng.random((2, 256, 256), dtype=np.float32)
    gallery.see(Batch([0, 1], noise), np.zeros(2, np.float32), maps)
    largest = max(len(data_uri(s.picture) + data_uri(s.heat)) for s in gallery.shown)
    number = 2 * (HARDEST + EASIEST) + gallery_module.KINDS * OF_EACH_KIND
    assert largest * number < 15e6
    _, own = map_webps(maps[0], calibrate([0.0, 1.0], [0.0, 1.0]))
    assert (largest + len(data_uri(own))) * number < 17e6


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_pictures_shape_is_that_of_what_is_read(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert upright_size(tmp_path / "a.jpg") == read_picture(tmp_path / "a.jpg").shape[1::-1]


def test_the_colours_of_the_page_are_those_of_heat_maps():
    table = colour_table()
    assert table.shape == (256, 4)
    assert table[0, 3] == 0  # nothing found: nothing covered
    assert tuple(table[255]) == (200, 0, 30, round(0.75 * 255))
