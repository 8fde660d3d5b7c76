"""EfficientAD: a student imitates a tiny teacher patch by patch, an auto-encoder as a whole.

The student, trained on good pictures only, is wrong about patches it never saw: local defects. The
auto-encoder, which must squeeze the whole picture through 64 numbers, misses what breaks the
picture's logic; half of the student's outputs imitate it, so that their difference shows that and
not the auto-encoder's blur.

Paper: Batzner, Heckler, König, "EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level
Latencies", WACV 2024, arXiv 2303.14535. No official code.

`network.py` has the detector and its networks, `trainer.py` how it learns, `ad.distill.pdn` the
patch description networks and where the teacher comes from.
"""
