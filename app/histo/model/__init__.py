"""From batches to a trained, portable model: learner, checkpoint, bundle."""
