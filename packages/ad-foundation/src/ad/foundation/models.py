"""The catalogue of ad-foundation: every model by name, with its defaults.

No torch here: `ad models` reads this page. Options that are not listed keep the defaults of
the trainer's signature.
"""
