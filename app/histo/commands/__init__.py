"""One module per command: each calls the layers below and prints the result."""
