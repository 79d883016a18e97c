"""A verb a module: each calls the layers below, then says what came of it."""
