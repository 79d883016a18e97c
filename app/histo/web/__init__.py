"""The web application of `histo serve`: pages and an HTTP API for one folder of the user's own machine."""
