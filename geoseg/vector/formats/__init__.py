"""One module per vector file format."""
