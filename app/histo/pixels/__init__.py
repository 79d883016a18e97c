"""Arithmetic on the pixels of a patch that training and prediction share."""
