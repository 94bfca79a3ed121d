"""Statistics that several audits share: ROC curves, tails, intervals, multiple tests. Numpy and scipy only."""
