"""A teacher for EfficientAD from the pictures at hand: textures, and good parts to train on.

The parts are the training pictures of seed 0, so that nothing a model is tested on with that seed
was seen. A teacher for every purpose takes ImageNet and a GPU (`ad distill-teacher --help`).

    AD_WEIGHTS=../shared/weights python benchmarks/teacher.py --data ../shared/data \
        --weights-folder ../teacher --output benchmarks/results/teacher.json
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from record import record

from ad.core import ConsoleProgress, collect, get_dataset, pictures_below
from ad.distill.distilling import distill_teacher

EVERY = 4
"""One in so many of the magnetic tiles: as many as there are textures."""


def pictures(data: Path) -> list[Path]:
    """The textures, the hazelnuts, some tiles."""
    chosen = pictures_below(data / "textures")
    for dataset, category, root, every in (
        ("mvtec", "hazelnut_toy", data, 1),
        ("mtd", "all", data / "mtd", EVERY),
    ):
        samples = collect(get_dataset(dataset), category, root=root, seed=0)
        chosen += [sample.path for sample in samples if sample.split == "train"][::every]
    return chosen


def main() -> None:
    """Make the teacher, write its card as the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the pictures")
    parser.add_argument("--weights-folder", type=Path, required=True, help="for the teacher")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(pictures(options.data)):
            (Path(folder) / f"{number:04d}{path.suffix}").symlink_to(path.resolve())
        made = distill_teacher(
            folder,
            backbone="resnet18",
            steps=options.steps,
            crop=options.crop,
            output=options.weights_folder,
            progress=ConsoleProgress(),
        )
    card = {key: value for key, value in made.card.items() if key not in ("images", "versions")}
    print(card)
    if options.output:
        record("distilled teacher", [card], options.output)


if __name__ == "__main__":
    main()
