"""Programs that run under an MPI launcher, each as ``python -m penstock.solvers.programs.NAME CONFIG``."""
