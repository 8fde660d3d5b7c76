"""A model and a data set layout, as a pattern for your own."""
