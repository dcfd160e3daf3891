"""EEG and Kaggle spectrograms to images, as batched torch operations on the device."""
