import hashlib

import numpy as np
import pytest

from ad.runtime.errors import SettingError
from ad.runtime.resize import resize

# Of a formula, not of a generator: its numbers must be the same in every version of NumPy.
_GOLDEN = {
    ((48, 64), (32, 32)): "72ad3116db150a45",
    ((300, 200), (64, 96)): "6c37c28980300158",
    ((20, 31), (256, 256)): "7a0ae2192eb697ce",
    ((1500, 40), (32, 40)): "a068c46007bec00f",
    ((7000, 3), (32, 2)): "84f542589c50e15a",
}


def _formula(height, width):
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((37 * y + 101 * x + 59 * c + x * y % 251 + (x * x + y) % 83) % 256).astype(np.uint8)


def _by_torch(torch, picture, size):
    channels_first = torch.from_numpy(picture).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(
        channels_first, size, mode="bilinear", antialias=True, align_corners=False
    )
    return small[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("seed", range(4))
def test_two_hundred_pictures_are_as_torch_resizes_them(seed):
    torch = pytest.importorskip("torch", reason="torch, to which it must be equal, is missing")
    random = np.random.default_rng(seed)
    for number in range(50):
        height, width = (int(2 ** random.uniform(0, 9.5)) for _ in range(2))
        size = tuple(int(2 ** random.uniform(1, 8)) for _ in range(2))
        # Black and white alone have the largest sums.
        values = random.integers(0, 2 if number % 3 == 0 else 256, (height, width, 3))
        picture = (values * (255 if number % 3 == 0 else 1)).astype(np.uint8)
        assert np.array_equal(resize(picture, size), _by_torch(torch, picture, size)), (
            picture.shape,
            size,
        )


@pytest.mark.parametrize(
    ("shape", "size"),
    [((9000, 64), (32, 64)), ((3, 9000), (40, 32)), ((1000, 2), (33, 2)), ((2, 500), (2, 33))],
)
def test_axes_far_larger_than_the_result_are_as_torch_resizes_them(shape, size):
    # From 8 inputs for an output on, sums are no longer exact in float32; from 128, the bits of
    # the weights are no longer what their size asks for but the most that there are.
    torch = pytest.importorskip("torch", reason="torch, to which it must be equal, is missing")
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert np.array_equal(resize(picture, size), _by_torch(torch, picture, size))


@pytest.mark.parametrize(("shape", "size"), _GOLDEN)
def test_the_grey_levels_are_those_of_always(shape, size):
    small = resize(_formula(*shape), size)
    assert hashlib.sha256(small.tobytes()).hexdigest()[:16] == _GOLDEN[shape, size]


@pytest.mark.parametrize("shape", [(33, 70), (1, 1), (700, 40), (40_000, 1)])
@pytest.mark.parametrize("level", [0, 1, 254, 255])
def test_one_level_everywhere_stays_so(shape, level):
    small = resize(np.full((*shape, 3), level, dtype=np.uint8), (2, 32))
    assert (small == level).all()


def test_views_and_what_may_not_be_written_are_resized_as_their_copies():
    whole = _formula(80, 90)
    whole.flags.writeable = False
    for view in (whole[::-1], whole[:, ::-1], whole[5:70, 3:50], whole.transpose(1, 0, 2)):
        assert np.array_equal(resize(view, (32, 40)), resize(view.copy(), (32, 40)))


def test_a_picture_of_the_size_is_given_back_whatever_it_is():
    picture = _formula(1, 1)
    assert resize(picture, (1, 1)) is picture


@pytest.mark.parametrize("size", [(1, 32), (32, 1), (0, 32), (32, -1)])
def test_sides_that_torch_resizes_in_several_ways_are_refused(size):
    with pytest.raises(SettingError, match=r"height x width\): each side must have 2 pixels or "):
        resize(_formula(40, 40), size)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((40, 40, 3)),
        np.zeros((40, 40), dtype=np.uint8),
        np.zeros((40, 40, 4), dtype=np.uint8),
        np.zeros((0, 40, 3), dtype=np.uint8),
        np.zeros((2, 40, 40, 3), dtype=np.uint8),
    ],
)
def test_what_is_no_picture_is_refused_with_its_shape_and_type(picture):
    with pytest.raises(SettingError, match=r"must be uint8 \[H, W, 3\]; got \w+ \[\d+"):
        resize(picture, (32, 32))
