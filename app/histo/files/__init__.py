"""Reading and writing: bounded, whole or not at all, one process at a time."""
