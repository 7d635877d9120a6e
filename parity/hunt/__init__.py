"""What looks for mistakes: mutants of the rules, and cases drawn at random."""
