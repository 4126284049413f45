"""Gates on anybody's net: what can be gated, and the net with gates in those places."""
