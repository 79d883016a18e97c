"""From labels and image files to patches in memory: read, split, stored, augmented, checked."""
