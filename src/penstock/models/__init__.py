"""Networks: where their weights are, under what terms, and how they are loaded and run."""
