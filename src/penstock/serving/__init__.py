"""A chain of steps as a service: requests, batches and pages, without a word about where the steps run."""
