"""The catalogue of ad-flow: every model by name, with its defaults.

No torch here: `ad models` reads this page. Options that are not listed keep the defaults of
the trainer's signature.
"""

from ad.core import ModelSpec

UFLOW_RESNET50 = ModelSpec(
    name="uflow-resnet50",
    trainer="ad.flow.uflow:UflowTrainer",
    model={"backbone": "resnet50", "flow_steps": 4},
    train={"num_epochs": 500, "batch_size": 8, "img_size": 256, "normalize": True},
    # Their code keeps the rate, whatever it means to do.
    paper_budget={"num_epochs": 200, "options": {"lr": 1e-4, "lr_end_factor": 1.0}},
    summary="a flow of several scales, with a threshold that needs no anomalies",
    paper="U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with Unsupervised Threshold, "
    "JMIV 2024",
    url="https://arxiv.org/abs/2211.12353",
    year=2024,
    code_licence="AGPL-3.0",
    tasks=("classifies", "localises"),
    check={"img_size": 64},
)

UFLOW_RESNET18 = UFLOW_RESNET50.variant(
    "uflow-resnet18",
    summary="U-Flow on ResNet-18: small and fast",
    model={"backbone": "resnet18"},
)
