"""Writers of adapters for other programs: one module a form, all in the table of forms.py."""
