"""What is learned from a dataset: tables and models."""
