"""Tables with words and missing values, turned into numbers for a student."""
