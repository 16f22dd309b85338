"""Published datasets as lazy columns: NumPy, PyTorch, Arrow and Ray Data views of the same rows."""

from penstock.reading.dataset import Column, Dataset, read

__all__ = ["Column", "Dataset", "read"]
