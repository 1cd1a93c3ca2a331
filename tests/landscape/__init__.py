"""The generated landscape, whose truth is known, and the model that knows it."""
