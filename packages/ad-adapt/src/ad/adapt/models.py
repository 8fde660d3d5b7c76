"""The catalogue of ad-adapt: every model by name, with its defaults.

No torch here: `ad models` reads this page. Options that are not listed keep the defaults of
the trainer's signature.
"""

from ad.core import ModelSpec

DFM = ModelSpec(
    name="dfm",
    trainer="ad.adapt.dfm:DfmTrainer",
    model={"backbone": "resnet50", "layer": "layer3", "score_type": "fre"},
    train={"num_epochs": 1, "batch_size": 16, "img_size": 256, "normalize": True},
    summary="what principal components of deep features miss, or a Gaussian among them",
    paper="Probabilistic Modeling of Deep Features for Out-of-Distribution and Adversarial "
    "Detection, NeurIPS workshops 2019",
    url="https://arxiv.org/abs/1909.11786",
    year=2019,
    code_licence="MIT",
    tasks=("classifies", "localises"),
    by_gradient=False,
    tileable=False,
    # Four cells to a side are all that pictures of 64 pixels have.
    check={"options": {"backbone": "resnet18", "pool": 1}},
)

DFM_RESNET18 = DFM.variant(
    "dfm-resnet18",
    summary="DFM on ResNet-18: small and fast",
    # As the figures of anomalib for this backbone are taken.
    model={"backbone": "resnet18", "pool": 2},
)

CFA = ModelSpec(
    name="cfa",
    trainer="ad.adapt.cfa:CfaTrainer",
    model={"backbone": "wide_resnet50_2"},
    train={"num_epochs": 20, "batch_size": 16, "img_size": 256, "normalize": True},
    paper_budget={"num_epochs": 30, "batch_size": 4},
    summary="features learnt so that normal patches lie in small spheres around centroids",
    paper="CFA: Coupled-hypersphere-based Feature Adaptation for Target-Oriented Anomaly "
    "Localization, IEEE Access 2022",
    url="https://arxiv.org/abs/2206.04325",
    year=2022,
    code_licence="none stated",
    tasks=("classifies", "localises"),
    by_gradient=True,
    tileable=False,
    check={"options": {"backbone": "resnet18"}},
)

CFA_RESNET18 = CFA.variant(
    "cfa-resnet18",
    summary="CFA on ResNet-18: small and fast",
    model={"backbone": "resnet18"},
)

# Of random weights, whose features spread little around good ones: with less noise the few steps
# of a check teach nothing of a blatant defect, which is far from all that was seen.
_CHECK = {"options": {"backbone": "resnet18", "noise": 4.0, "lr": 5e-3}}

SIMPLENET = ModelSpec(
    name="simplenet",
    trainer="ad.adapt.simplenet:SimplenetTrainer",
    model={
        "backbone": "wide_resnet50_2",
        "layers": ("layer2", "layer3"),
        "embedding": "pooled",
    },
    train={"num_epochs": 160, "batch_size": 8, "img_size": 256, "normalize": True},
    # From pictures of 329 pixels the authors crop 288; here pictures are resized to 288.
    paper_budget={"img_size": 288},
    summary="a discriminator between normal patches and the same with noise on their features",
    paper="SimpleNet: A Simple Network for Image Anomaly Detection and Localization, CVPR 2023",
    url="https://arxiv.org/abs/2303.15140",
    year=2023,
    code_licence="MIT",
    tasks=("classifies", "localises"),
    by_gradient=True,
    check=_CHECK,
)

SIMPLENET_RESNET18 = SIMPLENET.variant(
    "simplenet-resnet18",
    summary="SimpleNet on ResNet-18: small and fast",
    # With so few channels pooling to 1536 features repeats most of them.
    model={"backbone": "resnet18", "embedding": "concatenated"},
    check=_CHECK,
)
