"""From files to batches: labels, patches, store, split, loaders."""
