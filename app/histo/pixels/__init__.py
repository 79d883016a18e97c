"""Pixel operations that training and prediction share."""
