"""A whole job in one TOML file: segment, vectorize, export, report."""
