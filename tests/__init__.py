"""The tests: a specification, a sentence each."""
