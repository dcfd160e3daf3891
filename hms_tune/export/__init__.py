"""From the best trial to weights, a bundle that predicts, and a submission."""
