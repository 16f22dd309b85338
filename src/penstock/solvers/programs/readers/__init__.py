"""Programs in other languages that read a dataset under MPI: sources to build, or to take from."""
