"""A dashboard over the datasets of a folder or bucket: read, never written, by the files that runs leave there."""
