"""Where good ends: calibration, held-out pictures, and what verdicts say of a promise."""
