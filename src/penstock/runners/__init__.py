"""What carries a pipeline out: this process, or Ray. The only folder that imports Ray."""
