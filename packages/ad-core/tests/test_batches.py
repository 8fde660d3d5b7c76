import numpy as np
import pytest
import torch
from PIL import Image

from ad.core.data import batches
from ad.core.data.batches import PictureSet, to_device
from ad.core.errors import PictureError
from ad.core.testing.pictures import make_picture


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(7)]
    for index, path in enumerate(paths):
        Image.fromarray(make_picture(index, size=16)[0]).save(path)
    return paths


def test_batches_hold_every_picture_in_order(files):
    found = list(PictureSet(files, 16).batches(3))
    assert [batch.indices for batch in found] == [[0, 1, 2], [3, 4, 5], [6]]
    pictures = torch.cat([batch.pictures for batch in found])
    expected = np.stack([make_picture(index, size=16)[0] for index in range(7)])
    assert pictures.dtype == torch.uint8
    np.testing.assert_array_equal(pictures.numpy(), expected)


def test_another_order_can_be_asked_for(files):
    assert [b.indices for b in PictureSet(files, 16).batches(2, order=[5, 0, 6])] == [[5, 0], [6]]


def test_files_and_arrays_mix(files):
    array = make_picture(1, size=16)[0]
    (batch,) = PictureSet([files[1], array], 16).batches(2)
    assert torch.equal(batch.pictures[0], batch.pictures[1])


@pytest.mark.parametrize("ram_budget", [2**30, 0])
def test_a_cached_picture_is_decoded_once(files, monkeypatch, ram_budget):
    decoded = []
    real = batches.glimpse

    def counting(path, **options):
        decoded.append(path)
        return real(path, **options)

    monkeypatch.setattr(batches, "glimpse", counting)
    pictures = PictureSet(files, 16, cache=True, ram_budget=ram_budget)
    first = torch.cat([batch.pictures for batch in pictures.batches(3)])
    second = torch.cat([batch.pictures for batch in pictures.batches(2)])
    assert torch.equal(first, second)
    assert sorted(decoded) == files


def test_without_a_cache_each_pass_decodes_again(files, monkeypatch):
    decoded = []
    real = batches.glimpse
    monkeypatch.setattr(
        batches,
        "glimpse",
        lambda path, **options: decoded.append(path) or real(path, **options),
    )
    pictures = PictureSet(files, 16)
    for _ in range(2):
        list(pictures.batches(3))
    assert len(decoded) == 14


def test_an_unreadable_picture_is_raised_with_its_path(files):
    files[4].write_bytes(b"")
    with pytest.raises(PictureError, match=r"4\.png` is empty"):
        list(PictureSet(files, 16).batches(2))


def test_or_it_is_recorded_and_the_rest_goes_on(files):
    files[2].write_bytes(b"")
    files[3].write_bytes(b"")
    found = list(PictureSet(files, 16).batches(2, on_error="record"))
    assert [batch.indices for batch in found] == [[0, 1], [], [4, 5], [6]]
    assert found[1].pictures.shape == (0, 16, 16, 3)
    assert [index for index, _ in found[1].errors] == [2, 3]


def test_pictures_are_scaled_to_the_unit_interval_channels_last():
    pictures = torch.tensor([0, 128, 255], dtype=torch.uint8).expand(2, 5, 4, 3).contiguous()
    images = to_device(pictures, torch.device("cpu"))
    assert images.shape == (2, 3, 5, 4)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images[0, :, 0, 0].tolist() == pytest.approx([0, 128 / 255, 1])
