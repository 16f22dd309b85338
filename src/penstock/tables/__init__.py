"""Embedding tables larger than a node: rows in memory-mapped shards below a versioned manifest."""
