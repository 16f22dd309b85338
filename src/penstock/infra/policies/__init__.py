"""Rules of our own, in the manner of cfn-guard: an id, a sentence, the mend, and a function that finds breaches."""
