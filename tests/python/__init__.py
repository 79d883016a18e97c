"""histo from Python: the functions, the learner, trackers, the README's lines and the notebook."""
