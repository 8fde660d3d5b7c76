"""Synthetic anomalies: good pictures with defects made on the spot, and the masks of them.

```python
from ad.core.synth import PerlinAnomalies, texture_source

textures, note = texture_source("./textures")  # or "" to make textures by code
breaking = PerlinAnomalies(textures)
broken = breaking(batch.images, [batch.generator(row) for row in range(len(batch.indices))])
```

| module      | holds                                                                    |
|-------------|--------------------------------------------------------------------------|
| `perlin`    | Perlin noise, and masks of blotches from it                              |
| `textures`  | what blotches are filled with: a folder's pictures, or textures by code  |
| `changes`   | ten changes of colour and direction, three of which a texture undergoes  |
| `anomalies` | DRAEM's recipe: textures blended in under Perlin masks                   |
| `cut_paste` | CutPaste's: a part of the picture itself, put elsewhere                  |
| `rotation`  | pictures turned by an angle of their own                                 |
| `preview`   | a sheet of examples for a person to judge: `ad synth`                    |

Everything that is random in a picture comes from the picture's own generator, on the CPU, so it
depends on no other picture, and a resumed run repeats it. What follows from the numbers is computed
for the whole batch, on the pictures' device, in float32 whatever autocast says.
"""

from __future__ import annotations

from ad.core.synth.anomalies import Broken, PerlinAnomalies, blend
from ad.core.synth.changes import augment
from ad.core.synth.cut_paste import CutPaste
from ad.core.synth.perlin import perlin_masks, perlin_noise
from ad.core.synth.rotation import rotate, turn_some
from ad.core.synth.textures import (
    FolderTextures,
    ProceduralTextures,
    RandomColours,
    TextureSource,
    let_take_from,
    random_colours,
    texture_source,
)

__all__ = [
    "Broken",
    "CutPaste",
    "FolderTextures",
    "PerlinAnomalies",
    "ProceduralTextures",
    "RandomColours",
    "TextureSource",
    "augment",
    "blend",
    "let_take_from",
    "perlin_masks",
    "perlin_noise",
    "random_colours",
    "rotate",
    "texture_source",
    "turn_some",
]
