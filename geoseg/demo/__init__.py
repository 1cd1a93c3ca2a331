"""The demonstration: a generated landscape, the model that knows it, the whole way."""
