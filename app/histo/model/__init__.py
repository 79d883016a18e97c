"""The network and the bundle: building, saving, loading and predicting."""
