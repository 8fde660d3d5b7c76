"""MVTec LOCO AD, as published.

Bergmann et al., "Beyond dents and scratches: logical constraints in unsupervised anomaly detection
and localization", IJCV 2022. The masks of a picture are the files of a folder, one for each
defect; how much of a defect has to be found is in ``defects_config.json``, by the value of the
mask's pixels.
"""

from __future__ import annotations

import json
from pathlib import Path

from ad.core.data.mvtec import read_good
from ad.core.data.samples import (
    GOOD,
    Archive,
    DatasetSpec,
    Sample,
    Saturation,
    categories_in,
    category_folder,
)
from ad.core.errors import DataError
from ad.runtime.pictures.walking import folders_in, pictures_in

TREE = """\
<data root>/
  breakfast_box/               and juice_bottle, pushpins, screw_bag, splicing_connectors
    defects_config.json        how much of each kind of defect has to be found
    train/good/*.png           good parts
    validation/good/*.png      good parts to set the threshold with
    test/good/*.png            good parts
    test/logical_anomalies/000.png      defective parts, and structural_anomalies likewise
    ground_truth/logical_anomalies/000/*.png   masks of 000.png, one for each defect"""

HOLDS = ("train/good", "defects_config.json")


def categories(root: Path) -> list[str]:
    """Categories below a root; the root itself may be the only one."""
    return categories_in(root, HOLDS)


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """Samples of one category; the data bring their split, so the seed is not used.

    Raises:
        DataError: If ``defects_config.json`` is not as published, or no folder of masks has the
            name of a picture.
    """
    folder = category_folder(root, category, HOLDS)
    saturations = _saturations(folder / "defects_config.json")
    found = read_good(folder, category)
    for group in folders_in(folder / "test"):
        pictures = pictures_in(group)
        if group.name == GOOD:
            found += [Sample(path, 0, "test", category) for path in pictures]
            continue
        truth = folder / "ground_truth" / group.name
        masks = {home.name: tuple(pictures_in(home)) for home in folders_in(truth)}
        if pictures and not any(masks.get(path.stem) for path in pictures):
            msg = (
                f"`{truth}` has no masks of the pictures in `{group}`: `{pictures[0].name}` needs "
                f"its masks in `{truth / pictures[0].stem}`."
            )
            raise DataError(msg)
        for path in pictures:
            own = masks.get(path.stem, ())
            found.append(Sample(path, 1, "test", category, group.name, own, saturations))
    return found


def _saturations(file: Path) -> tuple[Saturation, ...]:
    try:
        first, *others = json.loads(file.read_text(encoding="utf-8"))
        return tuple(
            Saturation(
                value=int(entry["pixel_value"]),
                threshold=float(entry["saturation_threshold"]),
                relative=bool(entry["relative_saturation"]),
            )
            for entry in (first, *others)
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        msg = (
            f"`{file}` cannot be read ({type(error).__name__}: {error}): it must hold a list of "
            "objects with `pixel_value`, `saturation_threshold` and `relative_saturation`. Take "
            "it from the original again."
        )
        raise DataError(msg) from error


DATASET = DatasetSpec(
    name="mvtec-loco",
    summary="MVTec LOCO: five products with defects of structure and of logic",
    tree=TREE,
    source="https://www.mvtec.com/company/research/datasets/mvtec-loco",
    licence="CC BY-NC-SA 4.0, no commercial use",
    also_reads=("defects_config.json",),
    folders=("mvtec_loco_anomaly_detection", "mvtec_loco", "MVTecLOCO", "MVTec-LOCO"),
    categories=categories,
    samples=samples,
    archive=Archive(
        url="https://www.mydrive.ch/shares/48237/1b9106ccdfbb09a0c414bd49fe44a14a/download/"
        "430647091-1646842701/mvtec_loco_anomaly_detection.tar.xz",
        checksum="sha256:9e7c84dba550fd2e59d8e9e231c929c45ba737b6b6a6d3814100f54d63aae687",
    ),
)
