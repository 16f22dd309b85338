"""Commands of ``penstock`` that have a module of their own."""
