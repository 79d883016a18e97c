"""From a predictions table to a judgement: metrics and plots, without torch."""
