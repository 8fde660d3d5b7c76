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
)

STFPM_RESNET18 = ModelSpec(
    name="stfpm-resnet18",
    trainer=STFPM.trainer,
    model={**STFPM.model, "backbone": "resnet18"},
    train=STFPM.train,
    paper_budget=STFPM.paper_budget,
    summary="STFPM on ResNet-18, as in the paper",
    paper=STFPM.paper,
    url=STFPM.url,
    year=STFPM.year,
    code_licence=STFPM.code_licence,
    tasks=STFPM.tasks,
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
)

FRE_RESNET18 = ModelSpec(
    name="fre-resnet18",
    trainer=FRE.trainer,
    model={**FRE.model, "backbone": "resnet18"},
    train=FRE.train,
    paper_budget=FRE.paper_budget,
    summary="FRE on ResNet-18: small and fast",
    paper=FRE.paper,
    url=FRE.url,
    year=FRE.year,
    code_licence=FRE.code_licence,
    tasks=FRE.tasks,
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
    # On pictures of 64 pixels it takes all 20 epochs to see a defect, and over a minute.
    check={"img_size": 96},
)

REVERSE_DISTILLATION_RESNET18 = ModelSpec(
    name="reverse-distillation-resnet18",
    trainer=REVERSE_DISTILLATION.trainer,
    model={**REVERSE_DISTILLATION.model, "backbone": "resnet18"},
    train=REVERSE_DISTILLATION.train,
    paper_budget=REVERSE_DISTILLATION.paper_budget,
    summary="Reverse Distillation on ResNet-18: small and fast",
    paper=REVERSE_DISTILLATION.paper,
    url=REVERSE_DISTILLATION.url,
    year=REVERSE_DISTILLATION.year,
    code_licence=REVERSE_DISTILLATION.code_licence,
    tasks=REVERSE_DISTILLATION.tasks,
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
    tasks=("classifies", "localises"),
    extra_data=("teacher weights", "penalty pictures"),
)

EFFICIENTAD_MEDIUM = ModelSpec(
    name="efficientad-medium",
    trainer=EFFICIENTAD_SMALL.trainer,
    model={"model_size": "medium"},
    train=EFFICIENTAD_SMALL.train,
    paper_budget=EFFICIENTAD_SMALL.paper_budget,
    summary="EfficientAD with wider networks: better, at three times the cost",
    paper=EFFICIENTAD_SMALL.paper,
    url=EFFICIENTAD_SMALL.url,
    year=EFFICIENTAD_SMALL.year,
    code_licence=EFFICIENTAD_SMALL.code_licence,
    tasks=EFFICIENTAD_SMALL.tasks,
    extra_data=EFFICIENTAD_SMALL.extra_data,
)

EFFICIENTAD = ModelSpec(
    name="efficientad",
    trainer=EFFICIENTAD_MEDIUM.trainer,
    model=EFFICIENTAD_MEDIUM.model,
    train=EFFICIENTAD_MEDIUM.train,
    paper_budget=EFFICIENTAD_MEDIUM.paper_budget,
    summary="the same as efficientad-medium",
    paper=EFFICIENTAD_MEDIUM.paper,
    url=EFFICIENTAD_MEDIUM.url,
    year=EFFICIENTAD_MEDIUM.year,
    code_licence=EFFICIENTAD_MEDIUM.code_licence,
    tasks=EFFICIENTAD_MEDIUM.tasks,
    extra_data=EFFICIENTAD_MEDIUM.extra_data,
)
