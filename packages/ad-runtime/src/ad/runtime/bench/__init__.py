"""How fast a model is here, in each engine, each in a process of its own."""
