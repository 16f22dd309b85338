"""Where solvers run: batch schedulers seen from outside."""
