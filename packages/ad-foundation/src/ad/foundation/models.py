"""The catalogue of ad-foundation: every model by name, with its defaults.

No torch here: `ad models` reads this page. Options that are not listed keep the defaults of
the trainer's signature.
"""

from ad.core import ModelSpec

# Random features say little: one fine layer and louder noise make learning quick enough to check.
_QUICK_SUPERSIMPLENET = {
    "num_epochs": 7,
    "options": {
        "backbone": "resnet18",
        "layers": ("layer1",),
        "noise_std": 0.1,
        "lr": 0.005,
        "adaptor_lr": 0.002,
    },
}

_QUICK_UNINET = {"options": {"student": "resnet18", "teacher": "resnet18"}}

SUPERSIMPLENET = ModelSpec(
    name="supersimplenet",
    trainer="ad.foundation.supersimplenet:SupersimplenetTrainer",
    model={"backbone": "wide_resnet50_2", "layers": ("layer2", "layer3"), "supervised": False},
    train={"num_epochs": 50, "batch_size": 16, "img_size": 256, "normalize": True},
    paper_budget={"num_epochs": 300, "batch_size": 32},
    summary="two small heads that find noise laid over a pretrained network's features",
    paper="SuperSimpleNet: Unifying Unsupervised and Supervised Learning for Fast and Reliable "
    "Surface Defect Detection, ICPR 2024",
    url="https://arxiv.org/abs/2408.03143",
    year=2024,
    code_licence="MIT",
    tasks=("classifies", "localises"),
    by_gradient=True,
    check=_QUICK_SUPERSIMPLENET,
)

SUPERSIMPLENET_SUPERVISED = SUPERSIMPLENET.variant(
    "supersimplenet-supervised",
    summary="SuperSimpleNet that learns from labelled defects, too",
    model={"supervised": True, "classify_adapted": False, "threshold": 0.6},
    paper="No Label Left Behind: A Unified Surface Defect Detection Model for all Supervision "
    "Regimes, JIMS 2025",
    url="https://arxiv.org/abs/2508.19060",
    year=2025,
    tasks=("classifies", "localises", "supervised"),
    extra_data=("labelled defective pictures",),
    check=_QUICK_SUPERSIMPLENET,
)

SUPERSIMPLENET_RESNET18 = SUPERSIMPLENET.variant(
    "supersimplenet-resnet18",
    summary="SuperSimpleNet on ResNet-18: small and fast",
    model={"backbone": "resnet18"},
    check=_QUICK_SUPERSIMPLENET,
)

UNINET = ModelSpec(
    name="uninet",
    trainer="ad.foundation.uninet.trainer:UninetTrainer",
    model={"student": "wide_resnet50_2", "teacher": "wide_resnet50_2", "temperature": 0.4},
    weights=("wide_resnet50_2",),
    train={"num_epochs": 20, "batch_size": 4, "img_size": 256, "normalize": True},
    paper_budget={"num_epochs": 100, "batch_size": 8, "options": {"temperature": 2.0}},
    summary="a student that rebuilds two teachers' features, of which one adapts to the product",
    paper="UniNet: A Contrastive Learning-guided Unified Framework with Feature Selection for "
    "Anomaly Detection, CVPR 2025",
    url="https://github.com/pangdatangtt/UniNet",
    year=2025,
    code_licence="MIT",
    tasks=("classifies", "localises", "supervised"),
    by_gradient=True,
    check=_QUICK_UNINET,
)

UNINET_RESNET18 = UNINET.variant(
    "uninet-resnet18",
    summary="UniNet on ResNet-18: small and fast",
    model={"student": "resnet18", "teacher": "resnet18"},
    weights=("resnet18",),
    check=_QUICK_UNINET,
)


def _dinomaly(encoder: str, img_size: int, num_epochs: int, batch_size: int) -> ModelSpec:
    return ModelSpec(
        name=f"dinomaly-{encoder}-{img_size}",
        trainer="ad.foundation.dinomaly:DinomalyTrainer",
        model={
            "encoder_name": f"dinov2_vit_{encoder}_14",
            "bottleneck_dropout": 0.2,
            "decoder_depth": 8,
        },
        weights=(f"vit_{encoder}_patch14_reg4_dinov2",),
        train={
            "num_epochs": num_epochs,
            "batch_size": batch_size,
            "img_size": img_size,
            "normalize": True,
        },
        paper_budget={"num_steps": 10_000, "batch_size": 16},
        summary=f"one narrow-minded decoder for many products, on DINOv2 {encoder} with registers",
        paper="Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly "
        "Detection, CVPR 2025",
        url="https://arxiv.org/abs/2405.14325",
        year=2025,
        code_licence="Apache-2.0",
        tasks=("classifies", "localises", "multi-product"),
        by_gradient=True,
        # The encoders take minutes: timm's smallest, and four of its blocks.
        check={
            "img_size": 64,
            "options": {
                "encoder_name": "test_vit",
                "layers": ("blocks.1", "blocks.2", "blocks.3", "blocks.4"),
                "decoder_depth": 2,
            },
        },
    )


# encoder, side of the pictures, epochs, batch
DINOMALY_SMALL_224 = _dinomaly("small", 224, 15, 32)
DINOMALY_BASE_224 = _dinomaly("base", 224, 15, 16)
DINOMALY_LARGE_224 = _dinomaly("large", 224, 15, 8)
DINOMALY_SMALL_392 = _dinomaly("small", 392, 10, 24)
DINOMALY_BASE_392 = _dinomaly("base", 392, 10, 12)
DINOMALY_LARGE_392 = _dinomaly("large", 392, 10, 6)
DINOMALY_SMALL_448 = _dinomaly("small", 448, 10, 16)
DINOMALY_BASE_448 = _dinomaly("base", 448, 10, 8)
DINOMALY_LARGE_448 = _dinomaly("large", 448, 10, 4)
