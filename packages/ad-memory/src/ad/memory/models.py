"""The catalogue of ad-memory: every model by name, with its defaults.

No torch here: `ad models` reads this page. Options that are not listed keep the defaults of
the trainer's signature.
"""

from ad.core import ModelSpec

PADIM = ModelSpec(
    name="padim",
    trainer="ad.memory.padim:PadimTrainer",
    model={
        "backbone": "wide_resnet50_2",
        "layers": ("layer1", "layer2", "layer3"),
        "reduction": "random",
        "n_features": 550,
    },
    train={"num_epochs": 1, "batch_size": 4, "img_size": 256, "normalize": True},
    summary="one Gaussian per position over deep features; Mahalanobis distance",
    paper="PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and "
    "Localization, ICPR workshops 2020",
    url="https://arxiv.org/abs/2011.08785",
    year=2020,
    code_licence="no official code",
    tasks=("classifies", "localises"),
    by_gradient=False,
    tileable=False,
    check={"options": {"backbone": "resnet18", "n_features": 100}},
)

PADIM_RESNET18 = PADIM.variant(
    "padim-resnet18",
    summary="PaDiM on ResNet-18: small and fast",
    model={"backbone": "resnet18", "n_features": 100},
)

PATCHCORE = ModelSpec(
    name="patchcore",
    trainer="ad.memory.patchcore:PatchcoreTrainer",
    model={
        "backbone": "wide_resnet50_2",
        "layers": ("layer2", "layer3"),
        "embedding": "pooled",
        "coreset_ratio": 0.1,
        "coreset": "greedy",
        "proj_dim": 128,
        "n_neighbors": 1,
        "score": "max",
        "knn_precision": "exact",
        "knn": "torch",
    },
    train={"num_epochs": 1, "batch_size": 8, "img_size": 256, "normalize": True},
    summary="distance to the nearest of a coreset of normal patches",
    paper="Towards Total Recall in Industrial Anomaly Detection, CVPR 2022",
    url="https://arxiv.org/abs/2106.08265",
    year=2022,
    code_licence="Apache-2.0",
    tasks=("classifies", "localises", "few-shot"),
    by_gradient=False,
    check={"options": {"backbone": "resnet18"}},
)

PATCHCORE_RESNET18 = PATCHCORE.variant(
    "patchcore-resnet18",
    summary="PatchCore on ResNet-18: small and fast",
    # With so few channels the authors' pooling mixes none: on Magnetic Tile Defects plain
    # concatenation finds more (0.92 to 0.95 image AUROC against 0.88). With so few features a
    # coreset chosen without projecting them costs little, and one of 1 patch in 800 finds more
    # bad tiles for it: image AUROC 0.944 to 0.953 against 0.918 to 0.924, though pixel AUROC is
    # 0.728 to 0.737 against 0.734 to 0.767; three seeds each. From 1 in 200 both are alike.
    model={"backbone": "resnet18", "embedding": "concatenated", "proj_dim": 0},
)

DFKDE = ModelSpec(
    name="dfkde",
    trainer="ad.memory.dfkde:DfkdeTrainer",
    model={"backbone": "resnet50", "layers": ("layer4",), "pre_trained": True},
    train={"num_epochs": 1, "batch_size": 8, "img_size": 256, "normalize": True},
    summary="kernel density of pooled deep features; image scores only",
    paper="no paper; a baseline known from anomalib",
    code_licence="Apache-2.0",
    tasks=("classifies",),
    by_gradient=False,
    check={"options": {"backbone": "resnet18"}},
)
