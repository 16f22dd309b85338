"""File formats of solvers: bytes and text to arrays and back, without a solver."""
