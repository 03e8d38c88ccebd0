"""What is wrong with a data set though every record of it can be read."""
