"""Indicators, one a file, each a callable for `Dataset.map`; and scoring a pool with them."""

# Public names of the package, each a subclass of `Indicator`.
INDICATORS = ("InputLength", "OutputLength", "Reward", "Perplexity", "MTLD", "NeighborDistance", "UniEval")
