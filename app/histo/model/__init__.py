"""The network and the bundle: built, saved, loaded, and from patches to calls."""
