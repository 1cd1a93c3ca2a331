"""What runs a network's batches: PyTorch itself, or code compiled for one shape."""
