"""Large frozen encoders, many products at once, and labelled defects where there are some.

`ad.foundation.models` is the catalogue; each model is one file or folder.
"""
