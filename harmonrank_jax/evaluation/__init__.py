"""How good a ranking or a policy is, and how sure that is."""
