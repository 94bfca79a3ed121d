"""What every audit needs of statistics: ROC curves, tails, intervals, multiple tests. numpy and scipy only."""
