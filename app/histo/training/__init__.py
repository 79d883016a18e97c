"""A training run: the recipe, and all that starts, records and resumes it."""
