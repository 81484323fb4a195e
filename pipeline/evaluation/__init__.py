"""How good a network is: metrics, intervals, comparisons, and where it looks."""
