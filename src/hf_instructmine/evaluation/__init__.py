"""What a model does besides its loss: benchmarks, answers, and a judge of them."""
