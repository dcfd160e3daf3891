"""The competition from Kaggle, unpacked safely."""
