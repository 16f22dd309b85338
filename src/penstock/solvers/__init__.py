"""Stages that need all rows at once: each takes the reference to a dataset and gives a row for each of its rows."""
