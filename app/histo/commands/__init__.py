"""One module a command; none imports another."""
