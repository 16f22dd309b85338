"""The nouns, and what a run needs of them: plan, storage, ledger, dataset, spec."""
