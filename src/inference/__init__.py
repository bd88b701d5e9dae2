"""Uses a trained network: accuracy and report on a data set, classes of single images, export."""
