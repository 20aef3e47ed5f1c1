"""What kind of target y is: how it is checked, encoded, split, predicted and scored."""
