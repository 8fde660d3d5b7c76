"""What tests of synthetic anomalies share: random pictures, and a generator for each."""

import numpy as np
import torch
from PIL import Image

CPU = torch.device("cpu")


def generators(count, first=0):
    return [torch.Generator().manual_seed(1000 + first + number) for number in range(count)]


def random_images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def with_pillow(levels, change):
    pictures = [Image.fromarray(one) for one in levels.permute(0, 2, 3, 1).byte().numpy()]
    changed = np.stack([np.asarray(change(picture)) for picture in pictures])
    return torch.from_numpy(changed).permute(0, 3, 1, 2).float()
