"""The catalogue of ad-recon: every model by name, with its defaults.

No torch here: `ad models` reads this page. Options that are not listed keep the defaults of
the trainer's signature.
"""

from ad.core import ModelSpec

AUTOENCODER = ModelSpec(
    name="autoencoder",
    trainer="ad.recon.autoencoder:AutoencoderTrainer",
    model={"latent_dim": 128},
    train={"num_epochs": 50, "batch_size": 16, "img_size": 256, "normalize": False},
    summary="error of rebuilding a picture through a narrow code",
    paper="Improving Unsupervised Defect Segmentation by Applying Structural Similarity to "
    "Autoencoders, VISAPP 2019",
    url="https://arxiv.org/abs/1807.02011",
    year=2019,
    code_licence="none published",
    tasks=("classifies", "localises"),
    by_gradient=True,
    tileable=False,
)

GANOMALY = ModelSpec(
    name="ganomaly",
    trainer="ad.recon.ganomaly:GanomalyTrainer",
    model={
        "input_size": (256, 256),
        "n_features": 64,
        "latent_vec_size": 256,
        "gamma": 0.01,
    },
    train={"num_epochs": 20, "batch_size": 8, "img_size": 256, "normalize": False},
    paper_budget={"num_epochs": 15, "batch_size": 64, "options": {"lr": 0.0002}},
    summary="a generator against a critic; distance between the codes of picture and copy",
    paper="GANomaly: Semi-Supervised Anomaly Detection via Adversarial Training, ACCV 2018",
    url="https://arxiv.org/abs/1805.06725",
    year=2018,
    code_licence="MIT",
    tasks=("classifies", "localises"),
    by_gradient=True,
    tileable=False,
    check={
        "num_epochs": 60,
        "options": {
            "input_size": (64, 64),
            "n_features": 8,
            "latent_vec_size": 16,
            "lr": 2e-4,
        },
    },
)

DRAEM = ModelSpec(
    name="draem",
    trainer="ad.recon.draem:DraemTrainer",
    model={"sspcab": True},
    train={"num_epochs": 10, "batch_size": 8, "img_size": 256, "normalize": False},
    paper_budget={"num_epochs": 700},
    summary="pictures are broken on purpose; one network mends them, another finds where",
    paper="DRAEM: A Discriminatively Trained Reconstruction Embedding for Surface Anomaly "
    "Detection, ICCV 2021",
    url="https://arxiv.org/abs/2108.07610",
    year=2021,
    code_licence="MIT",
    tasks=("classifies", "localises"),
    by_gradient=True,
    extra_data=("textures",),
    check={"num_epochs": 30, "options": {"width": 16, "lr": 2e-3}},
)

DSR = ModelSpec(
    name="dsr",
    trainer="ad.recon.dsr.trainer:DsrTrainer",
    model={"latent_anomaly_strength": 0.2, "embedding_dim": 128, "num_embeddings": 4096},
    train={"num_epochs": 50, "batch_size": 8, "img_size": 256, "normalize": False},
    paper_budget={"num_steps": 150_000, "options": {"refine_share": 1 / 3}},
    summary="defects are made in a quantised code, and mended there",
    paper="DSR: A Dual Subspace Re-Projection Network for Surface Anomaly Detection, ECCV 2022",
    url="https://arxiv.org/abs/2208.01521",
    year=2022,
    code_licence="Apache-2.0",
    tasks=("classifies", "localises"),
    by_gradient=True,
    extra_data=("textures", "quantiser weights"),
    check={
        "num_epochs": 80,
        "options": {
            "latent_anomaly_strength": 1.0,
            "embedding_dim": 32,
            "num_embeddings": 128,
            "width": 16,
            "refine_share": 0.2,
            "rotate_prob": 0.0,
            "lr": 1e-3,
        },
    },
)
