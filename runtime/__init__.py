"""Video and pictures through a model: decode, infer, encode."""
