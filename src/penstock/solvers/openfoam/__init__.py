"""OpenFOAM: cases, running them, and fields that flow into running solvers."""
