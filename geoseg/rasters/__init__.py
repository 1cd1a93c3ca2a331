"""A module per kind of source; `open.open_source` is the entry point to them."""
