"""UniNet: a student rebuilds what two teachers say, of which one adapts to the product.

A frozen teacher and a copy of it that learns slowly see a picture; their maps are squeezed into one
code each, and a student turns both codes back into maps. What it makes of one teacher's code is
compared with the other teacher's maps. Features that matter for the product are selected by the
teachers, and a contrastive loss keeps each position apart from all others. Where true defects are
known, the student is taught to fail there.

Paper: Wei, Jiang, Xu, "UniNet: A Contrastive Learning-guided Unified Framework with Feature
Selection for Anomaly Detection", CVPR 2025. Official code: pangdatangtt/UniNet, MIT.
"""
