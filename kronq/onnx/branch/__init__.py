"""The branch form: the factors beside each base layer."""
