"""Checks of an export against the normal form."""
