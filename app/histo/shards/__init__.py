"""A prediction in shares: each written and resumed alone, joined when all are there."""
