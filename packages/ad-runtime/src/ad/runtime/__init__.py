"""Exported detectors at work, without torch: pictures in, scores, verdicts and heat maps out."""
