"""What Kaggle needs of a bundle: a data set with the program, and notebooks that predict and train there."""
