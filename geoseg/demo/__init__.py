"""The demonstration: a small scene, its truth, a model that knows it, all of geoseg.

The scene and the model's training data are generated; the generator lies beside the
tests, in `tests/landscape`.
"""
