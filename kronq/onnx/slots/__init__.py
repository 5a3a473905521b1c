"""The slots form: a base whose adapter is an input of the graph."""
