"""The branch form: the adapter's factors beside each base layer."""
