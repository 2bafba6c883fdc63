"""Interactive views, one a file. They take arrays and results and never load a model by themselves."""
