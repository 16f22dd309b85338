"""What runs in a Python of its own, because it wants other pins than ours."""
