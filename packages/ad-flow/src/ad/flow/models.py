"""The catalogue of ad-flow: every model by name, with its defaults.

No torch here: `ad models` reads this page. Options that are not listed keep the defaults of
the trainer's signature.
"""

from ad.core import ModelSpec

FASTFLOW_RESNET50 = ModelSpec(
    name="fastflow-resnet50",
    trainer="ad.flow.fastflow:FastflowTrainer",
    model={"backbone": "resnet50", "flow_steps": 8},
    train={"num_epochs": 500, "batch_size": 8, "img_size": 256, "normalize": True},
    paper_budget={"num_epochs": 500, "batch_size": 32},
    check={"options": {"backbone": "resnet18", "flow_steps": 2}},
    summary="the likelihood of whole feature maps, by a flow of convolutions on each",
    paper="FastFlow: Unsupervised Anomaly Detection and Localization via 2D Normalizing Flows, "
    "arXiv 2021",
    url="https://arxiv.org/abs/2111.07677",
    year=2021,
    code_licence="none published",
    tasks=("classifies", "localises"),
    by_gradient=True,
    tileable=False,
)

FASTFLOW_RESNET18 = FASTFLOW_RESNET50.variant(
    "fastflow-resnet18",
    summary="FastFlow on ResNet-18: small and fast",
    model={"backbone": "resnet18"},
    check={"options": {"flow_steps": 2}},
)

FASTFLOW_CAIT = FASTFLOW_RESNET50.variant(
    "fastflow-cait",
    summary="FastFlow on CaiT, a large vision transformer: the paper's best, and slow",
    model={"backbone": "cait_m48_448"},
    train={"batch_size": 2, "img_size": 448},
    paper_budget={"num_epochs": 500, "batch_size": 32, "options": {"flow_steps": 20}},
    check={"options": {"backbone": "cait_xxs24_224", "layers": ("blocks.2",), "flow_steps": 2}},
)

FASTFLOW_DEIT = FASTFLOW_CAIT.variant(
    "fastflow-deit",
    summary="FastFlow on DeiT, a vision transformer",
    model={"backbone": "deit_base_distilled_patch16_384"},
    train={"img_size": 384},
    check={
        "options": {
            "backbone": "deit_tiny_distilled_patch16_224",
            "layers": ("blocks.2",),
            "flow_steps": 2,
        }
    },
)

CFLOW_RESNET50 = ModelSpec(
    name="cflow-resnet50",
    trainer="ad.flow.cflow:CflowTrainer",
    model={"backbone": "resnet50", "layers": ("layer1", "layer2", "layer3")},
    train={"num_epochs": 250, "batch_size": 8, "img_size": 256, "normalize": True},
    paper_budget={
        "num_epochs": 200,
        "batch_size": 32,
        "options": {"fiber_batch": 256, "lr": 0.0002},
    },
    check={"options": {"backbone": "resnet18", "coupling_blocks": 2}},
    summary="the likelihood of feature vectors, by flows that know where they are",
    paper="CFLOW-AD: Real-Time Unsupervised Anomaly Detection with Localization via Conditional "
    "Normalizing Flows, WACV 2022",
    url="https://arxiv.org/abs/2107.12571",
    year=2022,
    code_licence="BSD-3-Clause",
    tasks=("classifies", "localises"),
    by_gradient=True,
    tileable=False,
)

CFLOW_RESNET18 = CFLOW_RESNET50.variant(
    "cflow-resnet18",
    summary="CFlow on ResNet-18: small and fast",
    model={"backbone": "resnet18"},
    check={"options": {"coupling_blocks": 2}},
)

UFLOW_RESNET50 = ModelSpec(
    name="uflow-resnet50",
    trainer="ad.flow.uflow:UflowTrainer",
    model={"backbone": "resnet50", "flow_steps": 4},
    train={"num_epochs": 500, "batch_size": 8, "img_size": 256, "normalize": True},
    check={"options": {"backbone": "resnet18", "flow_steps": 2}},
    # Their code keeps the rate, whatever it means to do.
    paper_budget={"num_epochs": 200, "options": {"lr": 1e-4, "lr_end_factor": 1.0}},
    summary="a flow of several scales, with a threshold that needs no anomalies",
    paper="U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with Unsupervised Threshold, "
    "JMIV 2024",
    url="https://arxiv.org/abs/2211.12353",
    year=2024,
    code_licence="AGPL-3.0",
    tasks=("classifies", "localises"),
    by_gradient=True,
    tileable=False,
)

UFLOW_RESNET18 = UFLOW_RESNET50.variant(
    "uflow-resnet18",
    summary="U-Flow on ResNet-18: small and fast",
    model={"backbone": "resnet18"},
    check={"options": {"flow_steps": 2}},
)

UFLOW_MCAIT = UFLOW_RESNET50.variant(
    "uflow-mcait",
    summary="U-Flow on two CaiTs, of which one sees pictures at half the size: the paper's best",
    model={"backbone": "mcait"},
    weights=("cait_m48_448", "cait_s24_224"),
    train={"batch_size": 4, "img_size": 448},
    paper_budget={
        "num_epochs": 200,
        "batch_size": 8,
        "options": {"lr": 1e-4, "lr_end_factor": 1.0},
    },
    check={"options": {"backbone": "mcait-xxs"}},
)

CSFLOW = ModelSpec(
    name="csflow",
    trainer="ad.flow.csflow:CsflowTrainer",
    model={"backbone": "efficientnet_b5", "n_coupling_blocks": 4},
    train={"num_epochs": 500, "batch_size": 2, "img_size": 256, "normalize": True},
    paper_budget={"num_epochs": 240, "batch_size": 16, "img_size": 768},
    summary="the likelihood of a picture in three sizes, by one flow of all of them",
    paper="Fully Convolutional Cross-Scale-Flows for Image-based Defect Detection, WACV 2022",
    url="https://arxiv.org/abs/2110.02855",
    year=2022,
    code_licence="MIT",
    tasks=("classifies", "localises"),
    by_gradient=True,
    # Small networks, and cells of 8 pixels, since pictures of 64 are two of its own wide.
    check={
        "options": {
            "backbone": "mobilenetv2_050",
            "layer": "blocks.2",
            "hidden": 32,
            "lr": 0.01,
        }
    },
)

MSFLOW = ModelSpec(
    name="msflow",
    trainer="ad.flow.msflow:MsflowTrainer",
    model={"backbone": "wide_resnet50_2", "layers": ("layer1", "layer2", "layer3")},
    train={"num_epochs": 100, "batch_size": 8, "img_size": 512, "normalize": True},
    paper_budget={"num_epochs": 100, "batch_size": 16, "img_size": 512},
    summary="flows of three scales side by side, and one that brings them together",
    paper="MSFlow: Multi-Scale Flow-based Framework for Unsupervised Anomaly Detection, TNNLS 2024",
    url="https://arxiv.org/abs/2308.15300",
    year=2024,
    code_licence="CC BY-NC-ND 4.0",
    tasks=("classifies", "localises"),
    by_gradient=True,
    check={"options": {"backbone": "resnet18"}},
)

MSFLOW_RESNET18 = MSFLOW.variant(
    "msflow-resnet18",
    summary="MSFlow on ResNet-18 and smaller pictures: small and fast",
    model={"backbone": "resnet18"},
    train={"img_size": 256},
)
