"""Flow physics on arrays: operators, a reference solver, statistics."""
