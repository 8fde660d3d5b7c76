"""DSR: defects are made in a quantised code of good pictures, and mended there.

A quantiser turns a picture into a coarse and a fine map of codes, from which a general decoder
rebuilds whatever it was. Codes of good pictures are exchanged for far ones under random masks: that
is what defects look like to the quantiser. Networks that know the one product only bring the codes
back to normal and rebuild the picture from them. Where the two pictures differ is the defect, as a
detection module learns; a last module draws its outline.

Paper: Zavrtanik, Kristan, Skočaj, "DSR: A Dual Subspace Re-Projection Network for Surface Anomaly
Detection", ECCV 2022, arXiv 2208.01521. Official code: VitjanZ/DSR_anomaly_detection, Apache-2.0.

| module      | holds                                                                     |
|-------------|---------------------------------------------------------------------------|
| `vq`        | the quantiser: both encoders, both codebooks and the general decoder      |
| `weights`   | where a quantiser that was trained elsewhere is read from                 |
| `anomalies` | how codes of good pictures are broken                                     |
| `network`   | the networks of the one product, and the detector                         |
| `trainer`   | the three phases of learning: quantiser, detection, refinement            |
"""
