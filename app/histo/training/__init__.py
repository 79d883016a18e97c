"""Training: the recipe, and the code that starts, records and resumes a run."""
