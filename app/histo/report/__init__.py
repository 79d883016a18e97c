"""From a predictions table to a report: metrics, intervals, figures and the page, without torch."""
