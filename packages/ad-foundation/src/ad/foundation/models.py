"""The catalogue of ad-foundation: every model by name, with its defaults.

No torch here: `ad models` reads this page. Options that are not listed keep the defaults of
the trainer's signature.
"""

from ad.core import ModelSpec


def _dinomaly(encoder: str, img_size: int, num_epochs: int, batch_size: int) -> ModelSpec:
    return ModelSpec(
        name=f"dinomaly-{encoder}-{img_size}",
        trainer="ad.foundation.dinomaly:DinomalyTrainer",
        model={
            "encoder_name": f"dinov2_vit_{encoder}_14",
            "bottleneck_dropout": 0.2,
            "decoder_depth": 8,
        },
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
        tasks=("classifies", "localises"),
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
