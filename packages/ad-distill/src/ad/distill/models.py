"""The catalogue of ad-distill: every model by name, with its defaults.

No torch here: `ad models` reads this page. Options that are not listed keep the defaults of
the trainer's signature.
"""

from ad.core import ModelSpec

STFPM = ModelSpec(
    name="stfpm",
    trainer="ad.distill.stfpm:StfpmTrainer",
    model={"backbone": "resnet50", "layers": ("layer1", "layer2", "layer3")},
    train={"num_epochs": 50, "batch_size": 16, "img_size": 256, "normalize": True},
    paper_budget={"num_epochs": 100, "batch_size": 32},
    summary="a student that imitates a pretrained network on good pictures only",
    paper="Student-Teacher Feature Pyramid Matching for Anomaly Detection, BMVC 2021",
    url="https://arxiv.org/abs/2103.04257",
    year=2021,
    code_licence="GPL-3.0",
    tasks=("classifies", "localises"),
    by_gradient=True,
    check={"options": {"backbone": "resnet18"}},
)

STFPM_RESNET18 = STFPM.variant(
    "stfpm-resnet18",
    summary="STFPM on ResNet-18, as in the paper",
    model={"backbone": "resnet18"},
)

FRE = ModelSpec(
    name="fre",
    trainer="ad.distill.fre:FreTrainer",
    model={"backbone": "resnet50", "layer": "layer3", "solver": "pca"},
    train={"num_epochs": 50, "batch_size": 16, "img_size": 256, "normalize": True},
    # In epochs learns only who does not solve for the components.
    paper_budget={"num_epochs": 250, "batch_size": 64, "options": {"solver": "sgd"}},
    summary="error of rebuilding a feature map from few principal components",
    paper="FRE: A Fast Method For Anomaly Detection And Segmentation, BMVC 2023",
    url="https://arxiv.org/abs/2211.12650",
    year=2023,
    code_licence="MIT",
    tasks=("classifies", "localises"),
    by_gradient=False,
    tileable=False,
    check={"options": {"backbone": "resnet18"}},
)

FRE_RESNET18 = FRE.variant(
    "fre-resnet18",
    summary="FRE on ResNet-18: small and fast",
    model={"backbone": "resnet18"},
)

REVERSE_DISTILLATION = ModelSpec(
    name="reverse-distillation",
    trainer="ad.distill.reverse_distillation:ReverseDistillationTrainer",
    model={"backbone": "wide_resnet50_2", "layers": ("layer1", "layer2", "layer3")},
    train={"num_epochs": 50, "batch_size": 8, "img_size": 256, "normalize": True},
    paper_budget={"num_epochs": 200, "batch_size": 16, "options": {"lr": 0.005}},
    summary="a decoder that rebuilds a pretrained network's features from a narrow code",
    paper="Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022",
    url="https://arxiv.org/abs/2201.10703",
    year=2022,
    code_licence="MIT",
    tasks=("classifies", "localises"),
    by_gradient=True,
    check={"options": {"backbone": "resnet18"}},
)

REVERSE_DISTILLATION_RESNET18 = REVERSE_DISTILLATION.variant(
    "reverse-distillation-resnet18",
    summary="Reverse Distillation on ResNet-18: small and fast",
    model={"backbone": "resnet18"},
)

EFFICIENTAD_SMALL = ModelSpec(
    name="efficientad-small",
    trainer="ad.distill.efficientad.trainer:EfficientadTrainer",
    model={"model_size": "small"},
    train={"num_epochs": 20, "batch_size": 1, "img_size": 256, "normalize": False},
    paper_budget={"num_steps": 70_000},
    summary="a student of a tiny teacher, and an auto-encoder for logical defects",
    paper="EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level Latencies, "
    "WACV 2024",
    url="https://arxiv.org/abs/2303.14535",
    year=2024,
    code_licence="none published",
    tasks=("classifies", "localises", "logical"),
    by_gradient=True,
    extra_data=("teacher weights", "penalty pictures"),
    weights=("efficientad_pdn_small",),
)

EFFICIENTAD_MEDIUM = EFFICIENTAD_SMALL.variant(
    "efficientad-medium",
    summary="EfficientAD with wider networks: better, at three times the cost",
    model={"model_size": "medium"},
    weights=("efficientad_pdn_medium",),
    check={"options": {"model_size": "small"}},
    aliases=("efficientad",),
)

EFFICIENTAD = EFFICIENTAD_MEDIUM  # what the alias's entry point names
