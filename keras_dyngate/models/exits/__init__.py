"""Early exits on any classifier: places, heads, teaching, thresholds."""
