"""Reports as tables: for ``str``, for notebooks and for a terminal."""
